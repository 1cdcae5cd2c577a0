//! The webhook for manifests written for HAMi: the API server asks it about new pods, and it makes claims of their limits.
//!
//! Optional, and a process of its own: it runs anywhere in the cluster. Owns the conversation; what becomes of a pod is said
//! by `conversion`. The only thing it makes are claim templates, each named by what it asks for.

mod certificates;
mod conversion;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::ByteString;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info};

use self::certificates::Certificates;
use self::conversion::{Conversion, convert};
use super::cluster::Cluster;

/// The longest question: an object that the API server stores has 1.5 MiB, and there may be an older one beside it.
const MOST_BYTES: usize = 4 << 20;
/// Connections at a time; further ones wait.
const MOST_CONNECTIONS: usize = 256;
/// How long a client may take to say what it wants, and the API server to make a template: it waits for 10 s itself.
const PATIENCE: Duration = Duration::from_secs(8);

/// Serves for as long as it is polled. Containers that name no cores get `cores` percent.
///
/// # Errors
/// Why it can't.
pub async fn run(
    address: SocketAddr,
    certificates: &Path,
    cores: Option<u64>,
    kubeconfig: Option<&Path>,
) -> anyhow::Result<()> {
    let certificates = Certificates::open(certificates).context("the webhook's certificate")?;
    let client = Cluster::connect(kubeconfig, "webhook").await?.client();
    let listener = TcpListener::bind(address).await.with_context(|| format!("can't listen on {address}"))?;
    info!("answering https://{}/convert", listener.local_addr()?);
    let webhook = Arc::new(Webhook { client, cores });
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let place = Arc::clone(&places).acquire_owned().await.ok();
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, say: the next one may work.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let acceptor = TlsAcceptor::from(certificates.current());
        let webhook = Arc::clone(&webhook);
        tokio::spawn(async move {
            if let Err(error) = serve(stream, acceptor, webhook).await {
                debug!("a connection: {error:#}");
            }
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, webhook: Arc<Webhook>) -> anyhow::Result<()> {
    let stream = timeout(PATIENCE, acceptor.accept(stream)).await??;
    let service = service_fn(move |request: Request<Incoming>| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, Infallible>(webhook.answer(request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE * 10)
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

struct Webhook {
    client: Client,
    cores: Option<u64>,
}

impl Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => text(StatusCode::OK, "well\n"),
            (&Method::POST, "/convert") => {
                let body = timeout(PATIENCE, Limited::new(request.into_body(), MOST_BYTES).collect()).await;
                let Ok(Ok(body)) = body else {
                    return text(StatusCode::BAD_REQUEST, "the question has no end, or is too long\n");
                };
                match serde_json::from_slice(&body.to_bytes()) {
                    Ok(review) => self.review(&review).await,
                    Err(_) => text(StatusCode::BAD_REQUEST, "that is no AdmissionReview\n"),
                }
            }
            _ => text(StatusCode::NOT_FOUND, "not here; see /convert and /healthz\n"),
        }
    }

    async fn review(&self, review: &Value) -> Response<Full<Bytes>> {
        let request = &review["request"];
        let Some(uid) = request["uid"].as_str() else {
            return text(StatusCode::BAD_REQUEST, "an AdmissionReview has a request with a uid\n");
        };
        let mut response = json!({ "uid": uid });
        match self.convert(request).await {
            Ok(patch) => {
                response["allowed"] = true.into();
                if !patch.is_empty() {
                    response["patchType"] = "JSONPatch".into();
                    // In JSON, bytes are base64.
                    let bytes = ByteString(Value::Array(patch).to_string().into_bytes());
                    response["patch"] = serde_json::to_value(bytes).unwrap_or_default();
                }
            }
            Err(what) => {
                response["allowed"] = false.into();
                response["status"] = json!({ "code": 422, "reason": "Invalid", "message": what });
            }
        }
        let answer =
            json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
        let mut response = text(StatusCode::OK, answer.to_string());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    /// The patch of a request's pod, whose templates are there then.
    async fn convert(&self, request: &Value) -> Result<Vec<Value>, String> {
        let Conversion { patch, templates } = convert(&request["object"], self.cores)?;
        let namespace = request["namespace"].as_str().unwrap_or("default");
        if request["dryRun"] != true {
            for (name, spec) in templates {
                self.make(namespace, &name, spec).await.map_err(|error| {
                    format!("the claim template {name} can't be made in {namespace}: {error}")
                })?;
            }
        }
        Ok(patch)
    }

    /// Makes a template unless there is one of its name, which says what it is.
    async fn make(&self, namespace: &str, name: &str, spec: Value) -> Result<(), String> {
        let metadata = json!({ "name": name, "labels": { "app.kubernetes.io/managed-by": "vcuda" } });
        let template = json!({ "metadata": metadata, "spec": spec });
        let template: ResourceClaimTemplate =
            serde_json::from_value(template).map_err(|error| error.to_string())?;
        let templates: Api<ResourceClaimTemplate> = Api::namespaced(self.client.clone(), namespace);
        let parameters = PostParams::default();
        match timeout(PATIENCE, templates.create(&parameters, &template)).await {
            Ok(Ok(_)) => {
                info!("made the claim template {namespace}/{name}");
                Ok(())
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
            Ok(Err(kube::Error::Api(status))) => Err(status.message),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("the API server does not answer".to_owned()),
        }
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    response
}
