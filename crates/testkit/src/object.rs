//! Which kernel programs the tests are about.

use std::borrow::Cow;

/// Names another object file for tests that run kernel programs. The product does not know it: it has its own built in.
pub const OBJECT_VARIABLE: &str = "SPECOLA_TEST_OBJECT";

/// The object that [`OBJECT_VARIABLE`] names, else the built-in one.
///
/// # Panics
/// The file cannot be read.
#[track_caller]
pub fn object_under_test(built_in: &'static [u8]) -> Cow<'static, [u8]> {
    let Some(path) = std::env::var_os(OBJECT_VARIABLE) else {
        return Cow::Borrowed(built_in);
    };
    let bytes =
        std::fs::read(&path).unwrap_or_else(|error| panic!("{OBJECT_VARIABLE}={}: {error}", path.display()));
    Cow::Owned(bytes)
}
