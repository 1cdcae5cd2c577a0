//! The talk with the API server: claims, pods and events.
//!
//! Owns how long an answer may take and what is said when there is none. Slices are published by [`super::publish`].

use std::fmt::Display;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Config, Error, Resource};
use tracing::debug;

use super::DRIVER;

/// How long the server may take to answer: kubelet waits for 45 s, and asks again.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest note of an event.
const LONGEST_NOTE: usize = 1000;

/// The API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    recorder: Recorder,
}

impl Cluster {
    /// The server of this pod's cluster, or the one that `kubeconfig` names.
    ///
    /// # Errors
    /// A sentence on what to do about it.
    pub async fn connect(kubeconfig: Option<&Path>, instance: &str) -> anyhow::Result<Self> {
        let config = match kubeconfig {
            Some(path) => {
                let shown = path.display();
                let read = Kubeconfig::read_from(path).with_context(|| format!("can't use {shown}"))?;
                let options = KubeConfigOptions::default();
                Config::from_custom_kubeconfig(read, &options).await.with_context(|| format!("can't use {shown}"))?
            }
            None => Config::incluster().context(
                "this is no pod with a service account; outside of one, name a file by which to reach the cluster with \
                 --kubeconfig",
            )?,
        };
        let client = Client::try_from(config).context("can't talk to the API server")?;
        let reporter = Reporter { controller: DRIVER.to_owned(), instance: Some(instance.to_owned()) };
        Ok(Self { recorder: Recorder::new(client.clone(), reporter), client })
    }

    /// For other objects.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The claim; none if there is none of that name.
    ///
    /// # Errors
    /// Why the server did not tell, and what to do about it.
    pub async fn claim(&self, namespace: &str, name: &str) -> Result<Option<ResourceClaim>, String> {
        let claims: Api<ResourceClaim> = Api::namespaced(self.client(), namespace);
        answer("resourceclaims.resource.k8s.io", claims.get_opt(name)).await
    }

    /// The pod; none if there is none of that name.
    ///
    /// # Errors
    /// Why the server did not tell, and what to do about it.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, String> {
        let pods: Api<Pod> = Api::namespaced(self.client(), namespace);
        answer("pods", pods.get_opt(name)).await
    }

    /// The node; none if there is none of that name.
    ///
    /// # Errors
    /// Why the server did not tell, and what to do about it.
    pub async fn node(&self, name: &str) -> Result<Option<Node>, String> {
        let nodes: Api<Node> = Api::all(self.client());
        answer("nodes", nodes.get_opt(name)).await
    }

    /// Tells those who look at an object what went wrong with it. Does not wait.
    pub fn warn<K>(&self, object: &K, reason: &'static str, action: &'static str, note: &str)
    where
        K: Resource<DynamicType = ()>,
    {
        self.warn_of(object.object_ref(&()), reason, action, note);
    }

    /// As [`Cluster::warn`], of an object that is known by its names only.
    pub fn warn_of(&self, object: ObjectReference, reason: &'static str, action: &'static str, note: &str) {
        let end =
            note.char_indices().map(|(at, _)| at).take_while(|at| *at <= LONGEST_NOTE).last().unwrap_or(0);
        let note = if note.len() <= LONGEST_NOTE { note } else { &note[..end] };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(note.to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, recorder.publish(&event, &object)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!("an event could not be told: {error}"),
                Err(_) => debug!("an event could not be told in time"),
            }
        });
    }
}

/// What the server says to a question about `what`.
pub async fn answer<T>(what: &str, question: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(Error::Api(status))) if status.code == 403 || status.code == 401 => Err(format!(
            "the API server does not let this agent use {what}: {}. Its service account needs the rights of the driver's \
             ClusterRole",
            status.message
        )),
        Ok(Err(error)) => Err(format!("asking the API server for {what}: {}", chain(&error))),
        Err(_) => Err(format!("the API server did not tell of {what} in {} s", PATIENCE.as_secs())),
    }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> impl Display {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
