//! The nested build of the kernel programs. The build script and `cargo xtask mutants` share it.
//!
//! It needs a rustc that has the source of `core` beside it, and `bpf-linker`. Nothing of the outer build's toolchain
//! is reused: the compiler that ships the source is often another one.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Builds the crate in the directory `ebpf` with some of its features and gives the object's path. `arch` and `endian`
/// are those of the machine that will load it, as cargo names them.
pub(crate) fn build_object(
    ebpf: &Path,
    features: &[&str],
    target_dir: &Path,
    (arch, endian): (&str, &str),
) -> Result<PathBuf> {
    let mut tried = String::new();
    let toolchain = Toolchain::find(&mut tried);
    let linker = find_linker();
    let (Some(toolchain), Some(linker)) = (toolchain.as_ref(), linker.as_ref()) else {
        return Err(what_to_install(toolchain.is_some(), linker.is_some(), &tried).into());
    };
    let target = if endian == "big" { "bpfeb-unknown-none" } else { "bpfel-unknown-none" };
    build(ebpf, features, target, target_dir, arch, toolchain, linker)?;
    Ok(target_dir.join(target).join("release/specola"))
}

/// Directory whose `rustc` and `cargo` build the kernel programs, when the search should not decide.
pub(crate) const TOOLCHAIN_VARIABLE: &str = "SPECOLA_BPF_TOOLCHAIN";

/// A compiler that can build `core` for another target.
struct Toolchain {
    bin: PathBuf,
}

impl Toolchain {
    /// Looks at the place that the user names, then the system's packages, then rustup's toolchains.
    fn find(tried: &mut String) -> Option<Self> {
        let mut places: Vec<PathBuf> = Vec::new();
        if let Some(named) = env::var_os(TOOLCHAIN_VARIABLE) {
            places.push(named.into());
        } else {
            places.push("/usr/bin".into());
            places.extend(rustup_toolchains());
        }
        places.into_iter().find_map(|bin| match Self::check(&bin) {
            Ok(()) => Some(Self { bin }),
            Err(why) => {
                // Writing into a String cannot fail.
                tried.push_str(&format!("  {}: {why}\n", bin.display()));
                None
            }
        })
    }

    fn check(bin: &Path) -> std::result::Result<(), String> {
        let rustc = bin.join("rustc");
        if !rustc.is_file() || !bin.join("cargo").is_file() {
            return Err("no rustc and cargo".into());
        }
        let output = Command::new(&rustc)
            .args(["--print", "sysroot"])
            .env_remove("RUSTUP_TOOLCHAIN")
            .output()
            .map_err(|error| format!("rustc does not run: {error}"))?;
        let sysroot = String::from_utf8_lossy(&output.stdout);
        let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
        if library.is_file() { Ok(()) } else { Err(format!("no source of core ({})", library.display())) }
    }
}

fn rustup_toolchains() -> Vec<PathBuf> {
    let home = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")));
    let Some(entries) = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path().join("bin")).collect();
    // A nightly first: it is the one that rustup gives sources for most often.
    found.sort_by_key(|bin| (!bin.to_string_lossy().contains("nightly"), bin.clone()));
    found
}

fn find_linker() -> Option<PathBuf> {
    let cargo_bin = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join("bin"));
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(cargo_bin)
        .map(|directory| directory.join("bpf-linker"))
        .find(|candidate| candidate.is_file())
}

fn build(
    ebpf: &Path,
    features: &[&str],
    target: &str,
    target_dir: &Path,
    arch: &str,
    toolchain: &Toolchain,
    linker: &Path,
) -> Result<()> {
    let mut cargo = Command::new(toolchain.bin.join("cargo"));
    for name in OUTER_VARIABLES {
        cargo.env_remove(name);
    }
    let rustflags = [
        format!("--cfg=bpf_target_arch=\"{arch}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
    ];
    let status = cargo
        .current_dir(ebpf)
        .env("RUSTC", toolchain.bin.join("rustc"))
        .env("RUSTDOC", toolchain.bin.join("rustdoc"))
        // `-Z build-std` is what is needed of the unstable options.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\x1f"))
        .args(["build", "--release", "--locked", "-Z", "build-std=core", "--target", target, "--target-dir"])
        .arg(target_dir)
        .arg("--features")
        .arg(features.join(","))
        .status()
        .map_err(|error| format!("cannot run {}: {error}", toolchain.bin.join("cargo").display()))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the build of the kernel programs failed: {status}").into())
    }
}

fn what_to_install(have_toolchain: bool, have_linker: bool, tried: &str) -> String {
    let mut text =
        String::from("the kernel programs cannot be built; `make setup` installs what is missing:\n");
    if !have_toolchain {
        text.push_str(
            "- a rustc with the source of its standard library: `apt-get install rustc-web cargo-web rust-web-src`\n  \
             or `rustup component add rust-src --toolchain nightly`; looked at:\n",
        );
        text.push_str(tried);
    }
    if !have_linker {
        text.push_str("- bpf-linker, on PATH: `cargo install bpf-linker` against the LLVM of that rustc\n");
    }
    text
}

/// Variables of the outer cargo that would change what the nested one does.
const OUTER_VARIABLES: [&str; 9] = [
    "CARGO_BUILD_TARGET",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTUP_TOOLCHAIN",
];
