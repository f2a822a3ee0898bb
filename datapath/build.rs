//! Builds the kernel programs of `ebpf/` and leaves the object at `$OUT_DIR/specola.o`.

#[path = "build/nested.rs"]
mod nested;

use std::{env, ffi::OsString, fs, path::PathBuf};

use nested::{Result, TOOLCHAIN_VARIABLE, build_object};

fn main() {
    if let Err(error) = run() {
        for line in error.to_string().lines() {
            println!("cargo::error={line}");
        }
    }
}

fn run() -> Result<()> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let ebpf = manifest_dir.join("ebpf");
    for watched in [
        "build.rs",
        "build",
        "ebpf/src",
        "ebpf/Cargo.toml",
        "ebpf/Cargo.lock",
        "common/src",
        "common/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={watched}");
    }
    println!("cargo::rerun-if-env-changed={TOOLCHAIN_VARIABLE}");

    let (arch, endian) = (variable("CARGO_CFG_TARGET_ARCH")?, variable("CARGO_CFG_TARGET_ENDIAN")?);
    let arch = arch.to_str().ok_or("the target architecture's name is not UTF-8")?;
    let endian = endian.to_str().ok_or("the target's byte order is not UTF-8")?;
    let object = build_object(&ebpf, &[], &out_dir.join("ebpf-target"), (arch, endian))?;
    fs::copy(&object, out_dir.join("specola.o"))
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    Ok(())
}

fn variable(name: &str) -> Result<OsString> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}").into())
}
