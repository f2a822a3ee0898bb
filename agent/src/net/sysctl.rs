//! Kernel settings below `/proc/sys/net`, which belong to the calling thread's network namespace.

use std::io;
use std::path::Path;

use super::NetError;

/// Writes a setting.
pub(super) fn set(name: &str, value: &str) -> Result<(), NetError> {
    let path = Path::new("/proc/sys/net").join(name);
    // A value that holds already is not written: in containers /proc/sys may be read-only.
    if std::fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|cause| NetError::Sysctl { path, cause })
}

/// Writes a setting of IPv6, which a kernel without IPv6 does not have.
pub(super) fn set_ipv6(name: &str, value: &str) -> Result<(), NetError> {
    match set(&format!("ipv6/{name}"), value) {
        Err(NetError::Sysctl { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
