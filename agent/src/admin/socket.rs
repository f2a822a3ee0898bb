//! The unix socket of the admin API.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use futures::{Stream, StreamExt};
use nix::unistd::geteuid;
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("another agent serves {path}; stop it, or give another --admin-socket", path = path.display())]
    InUse { path: PathBuf },
    #[error("cannot {action} {path}: {cause}", path = path.display())]
    Io { action: &'static str, path: PathBuf, cause: io::Error },
}

/// A listening socket that only root (and the user of this process) may talk to.
#[derive(Debug)]
pub(crate) struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl AdminSocket {
    /// Opens the socket. A file that an agent left behind is replaced.
    pub(crate) async fn bind(path: &Path) -> Result<Self, SocketError> {
        let io = |action, path: &Path| {
            let path = path.to_owned();
            move |cause| SocketError::Io { action, path, cause }
        };
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).map_err(io("make the directory of", path))?;
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(SocketError::InUse { path: path.to_owned() });
        }
        // It gets its name only when nobody else may open it any more.
        let hidden = path.with_added_extension(format!("new{}", std::process::id()));
        remove_if_there(&hidden).map_err(io("remove", &hidden))?;
        let listener = UnixListener::bind(&hidden).map_err(io("listen on", &hidden))?;
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&hidden, private).map_err(io("restrict", &hidden))?;
        std::fs::rename(&hidden, path).map_err(io("rename to", path))?;
        Ok(Self { listener, file: SocketFile(path.to_owned()) })
    }

    /// Connections of those who may; others are closed at once. The file lives as long as the second part.
    pub(super) fn into_incoming(self) -> (impl Stream<Item = io::Result<UnixStream>>, SocketFile) {
        let incoming =
            UnixListenerStream::new(self.listener).filter_map(async |connection| match connection {
                Ok(stream) => may_talk(&stream).then_some(Ok(stream)),
                Err(error) => Some(Err(error)),
            });
        (Box::pin(incoming), self.file)
    }
}

/// Removes the file of a socket at the end.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.0) {
            tracing::warn!(file = %self.0.display(), %error, "socket file stays");
        }
    }
}

fn may_talk(stream: &UnixStream) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "admin connection refused: not root");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "admin connection refused: peer unknown");
            false
        }
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_has_one_owner() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("sub/admin.sock");
        let socket = AdminSocket::bind(&path).await.expect("binds");
        let mode = std::fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(AdminSocket::bind(&path).await, Err(SocketError::InUse { .. })));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_file_left_behind_is_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("admin.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("binds"));
        assert!(path.exists(), "std leaves the file");
        AdminSocket::bind(&path).await.expect("binds over it");
    }
}
