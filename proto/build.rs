//! Compiles the .proto files to Rust: messages and services by prost and tonic, protobuf JSON by pbjson.

use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::Context as _;
use prost::Message as _;
use tonic_prost_build::FileDescriptorSet;

/// Entry files; what they import is compiled too.
const FILES: [&str; 7] = [
    "flow/flow.proto",
    "observer/observer.proto",
    "peer/peer.proto",
    "relay/relay.proto",
    "specola/v1/agent.proto",
    "specola/v1/flow.proto",
    "specola/v1/policy.proto",
];

/// Packages that get Rust code; `google.protobuf` is written by hand in `src/google.rs`.
const PACKAGES: [&str; 5] = [".flow", ".observer", ".peer", ".relay", ".specola.v1"];

/// Messages with JSON written by hand: pbjson puts a oneof behind all other fields, Hubble's envelopes have it first.
const OWN_JSON: [&str; 2] = [".observer.GetFlowsResponse", ".observer.ExportEvent"];

fn main() -> anyhow::Result<()> {
    println!("cargo::rerun-if-changed=proto");
    let mut files = protox::compile(FILES, [Path::new("proto")]).context("compile the .proto files")?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set; build with cargo")?);
    let bytes = files.encode_to_vec();
    fs::write(out_dir.join("descriptors.bin"), &bytes).context("write the descriptor set")?;
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)
        .context("read the descriptor set")?
        .preserve_proto_field_names()
        .ignore_unknown_fields()
        .exclude(OWN_JSON)
        .build(&PACKAGES)
        .context("generate protobuf JSON")?;
    write_unknown_enums_as_numbers(&out_dir)?;
    let mut builder = tonic_prost_build::configure().compile_well_known_types(true);
    for (message, rust) in WELL_KNOWN {
        builder = builder.extern_path(message, rust);
    }
    without_deprecation(&mut files);
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    builder.compile_fds_with_config(files, config).context("generate messages and services")
}

/// Makes a field of an unknown enum value print its number, as protobuf JSON asks; pbjson refuses the whole message.
fn write_unknown_enums_as_numbers(out_dir: &Path) -> anyhow::Result<()> {
    for package in PACKAGES {
        let path = out_dir.join(format!("{}.serde.rs", package.trim_start_matches('.')));
        let code = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        let patched: String = code.lines().map(patch_enum_line).collect();
        fs::write(&path, patched).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn patch_enum_line(line: &str) -> String {
    let refuses =
        line.trim_start().starts_with(".map_err(|_| serde::ser::Error::custom(format!(\"Invalid variant");
    if refuses && line.ends_with("?;") {
        return ".map_or_else(crate::json::EnumValue::unknown, crate::json::EnumValue::Known);\n".to_owned();
    }
    format!("{line}\n")
}

/// Keeps rustc quiet about fields like `Summary`: deprecated in Hubble's API, but clients print them, so we fill them.
fn without_deprecation(files: &mut FileDescriptorSet) {
    for file in &mut files.file {
        let enums = file.enum_type.iter_mut().flat_map(|kind| &mut kind.value);
        enums.filter_map(|value| value.options.as_mut()).for_each(|options| options.deprecated = None);
        for message in &mut file.message_type {
            if let Some(options) = &mut message.options {
                options.deprecated = None;
            }
            let fields = message.field.iter_mut().filter_map(|field| field.options.as_mut());
            fields.for_each(|options| options.deprecated = None);
        }
    }
}

/// Rust types of the well-known messages; wrappers become plain values.
const WELL_KNOWN: [(&str, &str); 6] = [
    (".google.protobuf.Any", "crate::google::Any"),
    (".google.protobuf.FieldMask", "crate::google::FieldMask"),
    (".google.protobuf.Timestamp", "crate::google::Timestamp"),
    (".google.protobuf.BoolValue", "bool"),
    (".google.protobuf.Int32Value", "i32"),
    (".google.protobuf.UInt32Value", "u32"),
];
