//! Who asks: user and password in the header of each request.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::error::UsageError;
use crate::target::SERVER;

/// Basic authentication (RFC 7617), for servers behind a proxy that asks for it.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = SERVER)]
pub(crate) struct BasicAuthArgs {
    /// User name; needs TLS.
    #[arg(long, value_name = "NAME")]
    pub(crate) basic_auth_username: Option<String>,
    /// Password; better given as a variable, as others can see the command line.
    #[arg(long, value_name = "PASSWORD")]
    pub(crate) basic_auth_password: Option<String>,
}

impl fmt::Debug for BasicAuthArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BasicAuthArgs").field("username", &self.basic_auth_username).finish_non_exhaustive()
    }
}

/// Adds the header to requests, or nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Authorize(Option<MetadataValue<Ascii>>);

impl BasicAuthArgs {
    /// What is added to the requests.
    ///
    /// # Errors
    /// One of name and password is missing, or the connection is not encrypted.
    pub(crate) fn authorize(&self, is_encrypted: bool) -> Result<Authorize, UsageError> {
        let (name, password) = match (&self.basic_auth_username, &self.basic_auth_password) {
            (None, None) => return Ok(Authorize::default()),
            (Some(name), Some(password)) => (name, password),
            _ => {
                return Err(UsageError::text(
                    "invalid flag(s): --basic-auth-username and --basic-auth-password are both required, but only one was provided",
                ));
            }
        };
        if !is_encrypted {
            return Err(UsageError::text(
                "transport layer security required: a password is not sent in the clear; use --tls",
            ));
        }
        let header = format!("Basic {}", STANDARD.encode(format!("{name}:{password}")));
        let mut value: MetadataValue<Ascii> = header.parse().map_err(UsageError::from_error)?;
        value.set_sensitive(true);
        Ok(Authorize(Some(value)))
    }
}

impl Interceptor for Authorize {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(name: Option<&str>, password: Option<&str>) -> BasicAuthArgs {
        BasicAuthArgs {
            basic_auth_username: name.map(str::to_owned),
            basic_auth_password: password.map(str::to_owned),
        }
    }

    #[test]
    fn name_and_password_make_a_header() {
        // RFC 7617, section 2.
        let given = args(Some("Aladdin"), Some("open sesame"));
        let mut authorize = given.authorize(true).unwrap();
        let request = authorize.call(Request::new(())).unwrap();
        let header = request.metadata().get("authorization").unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let shown = format!("{given:?} {request:?}");
        assert!(!shown.contains("sesame") && !shown.contains("QWxhZGRp"), "{shown}");
        let mut nobody = args(None, None).authorize(false).unwrap();
        assert!(nobody.call(Request::new(())).unwrap().metadata().is_empty());
    }

    #[test]
    fn half_an_identity_and_clear_text_are_refused() {
        for (given, encrypted, says) in [
            (args(Some("a"), None), true, "are both required"),
            (args(None, Some("b")), true, "are both required"),
            (args(Some("a"), Some("b")), false, "transport layer security required"),
        ] {
            let error = given.authorize(encrypted).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
