//! The sockets between kubelet and its plugins.
//!
//! Owns the files: who may connect, what a dead instance left behind, and that a file is removed by the one that made it.
//! A plugin's socket must never be taken from an instance that still serves it.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use futures_util::stream;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint, Server};
use tracing::{debug, warn};

use super::authority::Acceptable;

/// The longest path that a socket can have.
const LONGEST_PATH: usize = 107;
/// How long kubelet may take to take a connection and to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long calls under way may take when the agent ends.
const FAREWELL: Duration = Duration::from_secs(3);

/// Where kubelet keeps its sockets and its plugins theirs.
#[derive(Clone, Debug)]
pub struct KubeletDirectory(PathBuf);

impl KubeletDirectory {
    /// Kubelet's own directory (its option `--root-dir`), such as `/var/lib/kubelet`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        // Kubelet is told of paths in it, and has another working directory.
        let path = path.into();
        Self(std::path::absolute(&path).unwrap_or(path))
    }

    /// Where kubelet looks for plugins that want to be registered.
    pub fn registry(&self) -> PathBuf {
        self.0.join("plugins_registry")
    }

    /// Where a driver's own socket is. Made by the driver.
    pub fn plugin(&self, driver: &str) -> PathBuf {
        self.0.join("plugins").join(driver)
    }

    /// Where device plugins and kubelet's socket for them are.
    pub fn device_plugins(&self) -> PathBuf {
        self.0.join("device-plugins")
    }

    /// Where kubelet answers who has what.
    pub fn pod_resources(&self) -> PathBuf {
        self.0.join("pod-resources").join("kubelet.sock")
    }

    /// Whether kubelet has been here: a directory of its making is there.
    ///
    /// # Errors
    /// A sentence on what to do about it.
    pub fn require(&self, directory: &Path) -> anyhow::Result<()> {
        if directory.is_dir() {
            return Ok(());
        }
        bail!(
            "{} is missing: kubelet makes it when it starts. Is kubelet's directory {} (its option --root-dir), and, \
             in a container, mounted at the same path? Otherwise choose with --kubelet-directory",
            directory.display(),
            self.0.display()
        )
    }
}

/// A socket that kubelet calls; its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    listener: UnixListener,
    /// Of its file: device and number.
    identity: (u64, u64),
}

impl Socket {
    /// Makes the socket, in the place of one that nobody serves any more. Only its user, root on a node, may connect.
    ///
    /// # Errors
    /// A sentence on what to do about it.
    pub fn bind(path: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let path = path.into();
        if path.as_os_str().len() > LONGEST_PATH {
            bail!(
                "{}: a socket's path can have {LONGEST_PATH} bytes at most; choose a shorter --kubernetes-instance",
                path.display()
            );
        }
        remove_if_dead(&path)?;
        let bound = UnixListener::bind(&path);
        let listener = bound.with_context(|| format!("can't listen on {}", path.display()))?;
        let identity = identity(&path).with_context(|| format!("can't look at {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))
            .with_context(|| format!("can't keep others from {}", path.display()))?;
        Ok(Self { path, listener, identity })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Something that tells whether the file is still there: kubelet removes those of device plugins when it starts.
    pub fn presence(&self) -> Presence {
        Presence { path: self.path.clone(), identity: self.identity }
    }

    /// Answers until `shutdown` fires, and then finishes what was begun.
    ///
    /// # Errors
    /// If the HTTP/2 library gives up.
    pub async fn serve(self, routes: Routes, shutdown: CancellationToken) -> anyhow::Result<()> {
        let connections = stream::unfold(&self.listener, async |listener| {
            loop {
                match listener.accept().await {
                    Ok((connection, _)) => {
                        return Some((Ok::<_, io::Error>(Acceptable::new(connection)), listener));
                    }
                    Err(error) => {
                        // Out of descriptors, say: the next one may work.
                        debug!("a connection: {error}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
        let serve = Server::builder()
            .add_routes(routes)
            .serve_with_incoming_shutdown(Box::pin(connections), shutdown.cancelled());
        let ended = async {
            shutdown.cancelled().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            served = serve => served.with_context(|| format!("serving {}", self.path.display())),
            () = ended => Ok(()),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.presence().is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Tells whether a socket's file is the one that was made.
#[derive(Clone, Debug)]
pub struct Presence {
    path: PathBuf,
    identity: (u64, u64),
}

impl Presence {
    /// Of a file of somebody else's, as it is now.
    ///
    /// # Errors
    /// If there is none.
    pub fn of(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        Ok(Self { identity: identity(&path)?, path })
    }

    /// Whether it is.
    pub fn is_there(&self) -> bool {
        identity(&self.path).is_ok_and(|now| now == self.identity)
    }

    /// Comes back when it is not any more, looking every `pause`.
    pub async fn lost(&self, pause: Duration) {
        while self.is_there() {
            tokio::time::sleep(pause).await;
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Removes a socket that nobody serves.
fn remove_if_dead(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("can't look at {shown}")),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            bail!("{shown} is in the way: it is no socket. Remove it")
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            bail!("another process serves {shown}; each instance needs a --kubernetes-instance of its own")
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("can't remove {shown}, which nobody serves"))
        }
        Err(error) => Err(error).with_context(|| format!("can't find out who serves {shown}")),
    }
}

/// Removes the sockets in `directory` whose names `is_ours` and that nobody serves, as killed instances leave them: kubelet
/// would call them for ever.
pub fn sweep(directory: &Path, is_ours: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_old = name.to_str().is_some_and(&is_ours)
            && entry.file_type().is_ok_and(|kind| kind.is_socket())
            && std::os::unix::net::UnixStream::connect(entry.path())
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        if !is_old {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Ok(()) => debug!("removed {}, which nobody served", entry.path().display()),
            Err(error) => warn!("can't remove {}, which nobody serves: {error}", entry.path().display()),
        }
    }
}

/// Calls whoever serves the socket at `path`, such as kubelet.
///
/// # Errors
/// If nobody does.
pub async fn connect(path: PathBuf) -> anyhow::Result<Channel> {
    let shown = path.display().to_string();
    // A proper name for the other end; where it is, the connector knows.
    let endpoint = Endpoint::from_static("http://localhost").connect_timeout(PATIENCE).timeout(PATIENCE);
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    endpoint.connect_with_connector(connector).await.with_context(|| format!("nobody answers at {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_ones_place_is_taken_and_a_living_ones_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dra.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = Socket::bind(&path).expect_err("taken").to_string();
        assert!(
            error.contains("another process serves") && error.contains("--kubernetes-instance"),
            "{error}"
        );
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "").unwrap();
        let error = Socket::bind(&path).expect_err("taken").to_string();
        assert!(error.contains("no socket"), "{error}");
    }

    #[tokio::test]
    async fn anothers_file_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dra.sock");
        let socket = Socket::bind(&path).unwrap();
        let presence = socket.presence();
        assert!(presence.is_there());
        fs::remove_file(&path).unwrap();
        assert!(!presence.is_there());
        presence.lost(Duration::from_secs(3600)).await;
        let other = Socket::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
    }

    #[tokio::test]
    async fn what_killed_instances_left_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        drop(std::os::unix::net::UnixListener::bind(path("dra-old.sock")).unwrap());
        drop(std::os::unix::net::UnixListener::bind(path("other.sock")).unwrap());
        let living = Socket::bind(path("dra-new.sock")).unwrap();
        fs::write(path("dra-file.sock"), "").unwrap();
        sweep(directory.path(), |name| name.starts_with("dra-"));
        let there = |name: &str| path(name).exists();
        assert!(!there("dra-old.sock"));
        assert!(there("other.sock") && there("dra-new.sock") && there("dra-file.sock"));
        sweep(&path("missing"), |_| true);
        drop(living);
    }

    #[test]
    fn a_path_that_is_too_long_is_told() {
        let error = Socket::bind(format!("/{}", "x".repeat(200))).expect_err("bound").to_string();
        assert!(error.contains("107 bytes"), "{error}");
    }

    #[test]
    fn kubelets_absence_is_told() {
        let kubelet = KubeletDirectory::new("/nonexistent/kubelet");
        let error = kubelet.require(&kubelet.registry()).expect_err("there").to_string();
        assert!(error.starts_with("/nonexistent/kubelet/plugins_registry is missing"), "{error}");
        assert!(error.contains("--kubelet-directory"), "{error}");
    }
}
