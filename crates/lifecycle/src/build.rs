//! What build this is.

/// Version and revision of the running program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct BuildInfo {
    /// Semantic version, without a leading `v`.
    pub version: &'static str,
    /// Source revision, when the build was told one through `SPECOLA_REVISION`.
    pub revision: Option<&'static str>,
}

impl BuildInfo {
    /// `1.2.3+g<revision>`, or the bare version.
    pub fn semver(&self) -> String {
        match self.revision {
            Some(revision) => format!("{}+g{revision}", self.version),
            None => self.version.to_owned(),
        }
    }

    /// `specola v<semver>`, as the flow server's status shows it.
    pub fn display(&self) -> String {
        format!("specola v{}", self.semver())
    }
}

/// The build of this program.
pub const fn build_info() -> BuildInfo {
    BuildInfo { version: env!("CARGO_PKG_VERSION"), revision: option_env!("SPECOLA_REVISION") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semver_carries_the_revision_only_when_known() {
        assert_eq!(BuildInfo { version: "1.2.3", revision: None }.semver(), "1.2.3");
        assert_eq!(BuildInfo { version: "1.2.3", revision: Some("abc") }.display(), "specola v1.2.3+gabc");
    }
}
