//! Compares our .proto files with `hubble_api.txt`, which was typed from the documentation of Hubble's API.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// Packages that must equal Hubble's.
const PACKAGES: [&str; 4] = ["flow", "observer", "peer", "relay"];

#[test]
fn every_message_field_enum_and_method_is_hubbles() {
    let expected = read_table(include_str!("hubble_api.txt"));
    let files =
        FileDescriptorSet::decode(specola_proto::FILE_DESCRIPTOR_SET).expect("the descriptor set decodes");
    let mut found = BTreeSet::new();
    for file in files.file.iter().filter(|file| PACKAGES.contains(&file.package())) {
        assert_eq!(file.syntax(), "proto3", "{}", file.name());
        describe_file(file, &mut found);
    }
    let missing: Vec<_> = expected.difference(&found).collect();
    let surplus: Vec<_> = found.difference(&expected).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "missing: {missing:#?}\nsurplus: {surplus:#?}");
    assert!(found.len() > 600, "only {} facts were compared", found.len());
}

#[test]
fn observer_imports_flow_publicly() {
    let files =
        FileDescriptorSet::decode(specola_proto::FILE_DESCRIPTOR_SET).expect("the descriptor set decodes");
    let file =
        files.file.iter().find(|file| file.name() == "observer/observer.proto").expect("the file is there");
    let public: Vec<_> =
        file.public_dependency.iter().map(|at| file.dependency[*at as usize].as_str()).collect();
    assert_eq!(public, ["flow/flow.proto"]);
}

/// One fact per line, such as `message flow.TCP flags=3:TCPFlags`.
fn read_table(text: &str) -> BTreeSet<String> {
    let mut facts = BTreeSet::new();
    let mut subject = String::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let items = if let Some(more) = line.strip_prefix("  ") {
            more
        } else {
            let (head, items) = line.split_once(':').expect("a line names its subject");
            subject = head.to_owned();
            if !head.starts_with("reserved") {
                facts.insert(subject.clone());
            }
            items
        };
        facts.extend(items.split_whitespace().map(|item| format!("{subject} {item}")));
    }
    facts
}

fn describe_file(file: &FileDescriptorProto, facts: &mut BTreeSet<String>) {
    for message in &file.message_type {
        describe_message(file.package(), message, facts);
    }
    for kind in &file.enum_type {
        describe_enum(file.package(), kind, facts);
    }
    for service in &file.service {
        describe_service(file.package(), service, facts);
    }
}

fn describe_message(scope: &str, message: &DescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", message.name());
    facts.insert(format!("message {name}"));
    for field in &message.field {
        facts.insert(format!("message {name} {}", describe_field(message, field)));
    }
    for range in &message.reserved_range {
        facts.extend((range.start()..range.end()).map(|number| format!("reserved {name} {number}")));
    }
    for nested in &message.nested_type {
        describe_message(&name, nested, facts);
    }
    for nested in &message.enum_type {
        describe_enum(&name, nested, facts);
    }
}

fn describe_field(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Bool => "bool",
        Type::Double => "double",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::String => "string",
        Type::Uint32 => "uint32",
        Type::Uint64 => "uint64",
        Type::Message | Type::Enum => last_part(field.type_name()),
        other => panic!("{} has a type that Hubble does not use: {other:?}", field.name()),
    };
    let oneof = field
        .oneof_index
        .map(|at| format!("@{}", message.oneof_decl[at as usize].name()))
        .unwrap_or_default();
    let repeated = if field.label() == Label::Repeated { "*" } else { "" };
    let deprecated =
        if field.options.as_ref().is_some_and(|options| options.deprecated()) { "!" } else { "" };
    format!("{}={}:{kind}{oneof}{repeated}{deprecated}", field.name(), field.number())
}

fn describe_enum(scope: &str, kind: &EnumDescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("{scope}.{}", kind.name());
    facts.insert(format!("enum {name}"));
    for value in &kind.value {
        let deprecated =
            if value.options.as_ref().is_some_and(|options| options.deprecated()) { "!" } else { "" };
        facts.insert(format!("enum {name} {}={}{deprecated}", value.name(), value.number()));
    }
    for range in &kind.reserved_range {
        facts.extend((range.start()..=range.end()).map(|number| format!("reserved {name} {number}")));
    }
}

fn describe_service(scope: &str, service: &ServiceDescriptorProto, facts: &mut BTreeSet<String>) {
    let name = format!("service {scope}.{}", service.name());
    facts.insert(name.clone());
    for method in &service.method {
        assert!(!method.client_streaming(), "{} takes a stream", method.name());
        let stream = if method.server_streaming() { "~" } else { "" };
        let (input, output) = (last_part(method.input_type()), last_part(method.output_type()));
        facts.insert(format!("{name} {}({input}){stream}{output}", method.name()));
    }
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}
