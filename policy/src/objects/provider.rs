//! Addresses of a cloud provider's groups, as files give them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::api::DocumentError;
use crate::document::Document;
use crate::rule::AwsGroup;

/// Addresses of a group of a cloud provider (`ProviderGroup` of `specola.io/v1alpha1`).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProviderGroup {
    /// The group, as policies name it.
    pub group: AwsGroup,
    /// Prefixes of its members.
    pub prefixes: Vec<IpNet>,
}

impl ProviderGroup {
    /// `apiVersion` of its objects.
    pub const API_VERSION: &str = "specola.io/v1alpha1";
    /// `kind` of its objects.
    pub const KIND: &str = "ProviderGroup";

    /// Reads the object of a document.
    ///
    /// # Errors
    /// A field is unknown, missing or wrong.
    pub fn read(file: &str, document: &Document) -> Result<Self, DocumentError> {
        let Object { spec: Spec { aws, addresses }, .. } = document.read(file)?;
        let group = AwsGroup {
            region: aws.region,
            labels: aws.labels,
            security_group_ids: aws.security_groups_ids,
            security_group_names: aws.security_groups_names,
        };
        Ok(Self { group, prefixes: addresses.into_iter().map(|Prefix(prefix)| prefix.trunc()).collect() })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Object {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    aws: Aws,
    addresses: Vec<Prefix>,
}

/// The fields that policies have for a group.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Aws {
    region: String,
    labels: BTreeMap<String, String>,
    security_groups_ids: BTreeSet<String>,
    security_groups_names: BTreeSet<String>,
}

/// A prefix, or an address alone.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Prefix(IpNet);

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let address = text.parse::<IpAddr>().map(IpNet::from);
        let prefix = address.or_else(|_no_address| text.parse::<IpNet>());
        prefix
            .map(Self)
            .map_err(|_invalid| format!("{text:?} is neither an address nor a prefix such as 10.0.0.0/8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::split_documents;

    fn read(spec: &str) -> Result<ProviderGroup, DocumentError> {
        let text = format!(
            "apiVersion: specola.io/v1alpha1\nkind: ProviderGroup\nmetadata: {{name: g}}\nspec: {spec}\n"
        );
        ProviderGroup::read("g.yaml", split_documents("g.yaml", &text)[0].as_ref().unwrap())
    }

    #[test]
    fn groups_have_the_fields_of_policies() {
        let group = read("{aws: {region: r, securityGroupsIds: [b, a]}, addresses: [192.0.2.1, 10.1.2.3/8]}")
            .unwrap();
        let prefixes: Vec<String> = group.prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(prefixes, ["192.0.2.1/32", "10.0.0.0/8"]);
        assert_eq!(group.group.to_string(), "region r, security group a, security group b");
    }

    #[test]
    fn what_is_wrong_is_told_by_field() {
        for (spec, field) in [
            ("{aws: {}, addresses: [x]}", "spec.addresses[0]"),
            ("{aws: {securityGroupIds: []}, addresses: []}", "spec.aws"),
            ("{aws: {labels: {a: 1}}, addresses: []}", "spec.aws.labels.a"),
            ("{aws: {}}", "spec"),
        ] {
            let error = read(spec).unwrap_err();
            assert!(error.field.starts_with(field), "{spec}: {error:?}");
        }
    }
}
