//! A simulated Kubernetes API server: enough of it for the agent of a node.
//!
//! Keeps any objects, by the paths under which a real server has them, and serves get, list, watch, create, apply, replace
//! and delete over plain HTTP. It checks nothing of their contents, knows no rights and forgets everything in the end; what
//! it is asked can be made to fail. Never to be used by anything but tests.
#![forbid(unsafe_code)]

mod http;
mod objects;
mod place;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use objects::Objects;
use place::Place;

/// A server with its objects.
#[derive(Clone, Debug)]
pub struct Cluster {
    objects: Arc<Mutex<Objects>>,
    /// The newest version, for those who watch.
    version: Arc<watch::Sender<u64>>,
    faults: Arc<Mutex<Vec<Fault>>>,
}

/// What is answered in place of the truth.
#[derive(Clone, Debug)]
struct Fault {
    /// A part of the path and query, with the method in front: `GET /api/v1/pods`.
    request: String,
    status: u16,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { objects: Arc::default(), version: Arc::new(watch::channel(0).0), faults: Arc::default() }
    }
}

impl Cluster {
    /// Serves on an address of this machine, until the runtime ends.
    ///
    /// # Panics
    /// If there is no such address.
    pub async fn serve(&self, address: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(address).await.expect("an address of this machine that is free");
        let address = listener.local_addr().expect("it has been bound");
        tokio::spawn(http::serve(listener, self.clone()));
        address
    }

    /// Puts an object where its path says, such as `/api/v1/nodes/n1`; its version and UID are added if need be.
    ///
    /// # Panics
    /// If the path is no object's.
    pub fn put(&self, path: &str, object: Value) {
        let place = Place::parse(path).filter(|place| place.name.is_some()).expect("an object's path");
        self.change(|objects| objects.put(&place, object));
    }

    /// The object at a path.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.objects().get(&Place::parse(path)?).cloned()
    }

    /// All objects of a path, such as `/apis/resource.k8s.io/v1/resourceslices`.
    pub fn list(&self, path: &str) -> Vec<Value> {
        Place::parse(path).map(|place| self.objects().list(&place, "")).unwrap_or_default()
    }

    /// Deletes the object at a path, or all objects of one. How many.
    pub fn delete(&self, path: &str) -> usize {
        Place::parse(path).map_or(0, |place| self.change(|objects| objects.delete(&place, "").len()))
    }

    /// From now on answers requests with `status` whose method and path contain `request`; 0 for the truth again, also for
    /// those that were answered otherwise before.
    pub fn fail(&self, request: &str, status: u16) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.retain(|fault| fault.request != request);
        if status != 0 {
            faults.push(Fault { request: request.to_owned(), status });
        }
    }

    fn fault(&self, request: &str) -> Option<u16> {
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.iter().find(|fault| request.contains(&fault.request)).map(|fault| fault.status)
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let mut objects = self.objects();
        let result = change(&mut objects);
        self.version.send_replace(objects.version());
        result
    }
}

/// Writes a file that leads a client to the server at `address`.
///
/// # Errors
/// The system's.
pub fn write_kubeconfig(directory: &Path, address: SocketAddr) -> std::io::Result<PathBuf> {
    let path = directory.join("kubeconfig");
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "clusters": [{"name": "fake", "cluster": {"server": format!("http://{address}")}}],
        "users": [{"name": "fake", "user": {}}],
    });
    std::fs::write(&path, config.to_string())?;
    Ok(path)
}
