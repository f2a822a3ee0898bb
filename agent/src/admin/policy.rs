//! `specola.v1.PolicyAdmin`: what an operator sets beside the documents.

use std::collections::BTreeSet;
use std::net::IpAddr;

use specola_proto::specola::v1 as pb;
use specola_proto::specola::v1::policy_admin_server::PolicyAdmin;
use tonic::{Request, Response, Status};

use super::{AdminService, status};
use crate::node::AuditTarget;

#[tonic::async_trait]
impl PolicyAdmin for AdminService {
    async fn list_fqdn_cache(
        &self,
        _request: Request<pb::ListFqdnCacheRequest>,
    ) -> Result<Response<pb::ListFqdnCacheResponse>, Status> {
        let entries = self.node.call(|node| node.show_names()).await?;
        Ok(Response::new(pb::ListFqdnCacheResponse { entries }))
    }

    async fn set_fqdn(
        &self,
        request: Request<pb::SetFqdnRequest>,
    ) -> Result<Response<pb::SetFqdnResponse>, Status> {
        let pb::SetFqdnRequest { name, addresses } = request.into_inner();
        let addresses = read_addresses(&addresses)?;
        self.node.call(move |node| node.set_name(&name, addresses)).await?.map_err(status)?;
        Ok(Response::new(pb::SetFqdnResponse {}))
    }

    async fn delete_fqdn(
        &self,
        request: Request<pb::DeleteFqdnRequest>,
    ) -> Result<Response<pb::DeleteFqdnResponse>, Status> {
        let pattern = request.into_inner().pattern;
        let names = self.node.call(move |node| node.delete_names(&pattern)).await?.map_err(status)?;
        Ok(Response::new(pb::DeleteFqdnResponse { names }))
    }

    async fn list_audit(
        &self,
        _request: Request<pb::ListAuditRequest>,
    ) -> Result<Response<pb::ListAuditResponse>, Status> {
        let audited = self.node.call(|node| node.show_audit()).await?;
        Ok(Response::new(pb::ListAuditResponse { audited }))
    }

    async fn set_audit(
        &self,
        request: Request<pb::SetAuditRequest>,
    ) -> Result<Response<pb::SetAuditResponse>, Status> {
        let pb::SetAuditRequest { target, enabled } = request.into_inner();
        let target = read_target(target)?;
        let remaining =
            self.node.call(move |node| node.set_audit(&target, enabled)).await?.map_err(status)?;
        Ok(Response::new(pb::SetAuditResponse { remaining }))
    }
}

fn read_addresses(list: &[String]) -> Result<BTreeSet<IpAddr>, Status> {
    let read = |text: &String| {
        let refused = |_invalid| Status::invalid_argument(format!("addresses: {text:?} is no IP address"));
        text.parse::<IpAddr>().map_err(refused)
    };
    list.iter().map(read).collect()
}

fn read_target(target: Option<pb::set_audit_request::Target>) -> Result<AuditTarget, Status> {
    use pb::set_audit_request::Target;
    match target {
        Some(Target::Namespace(name)) if !name.is_empty() => Ok(AuditTarget::Namespace(name)),
        Some(Target::Policy(pb::AuditPolicy { kind, namespace, name })) if !name.is_empty() => {
            Ok(AuditTarget::Policy { kind, namespace, name })
        }
        _ => Err(Status::invalid_argument("target: name a namespace or a policy")),
    }
}
