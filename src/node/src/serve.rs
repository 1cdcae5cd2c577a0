//! HTTP: `/metrics`, `/healthz`, and nothing that changes anything.
//!
//! Answers from what the jobs published, so a request costs no look at any tenant's file. Owns the connections and
//! their bounds: anybody on this machine may connect.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::exposition::{Exposition, Format};
use crate::jobs::Health;

/// Connections at a time; further ones wait.
const MOST_CONNECTIONS: usize = 256;
/// How long a client may take to say what it wants, also on a connection that it keeps.
const PATIENCE: Duration = Duration::from_secs(75);
/// How long answers under way may take to arrive when the agent ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// Takes the address.
///
/// # Errors
/// A sentence on what to do about it.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "can't listen on {address}; if another vcuda-node runs there, end it, or choose with --listen"
        )
    })
}

/// Answers until `shutdown` fires, and then finishes what was begun.
pub async fn run(
    listener: TcpListener,
    exposition: Arc<Exposition>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let under_way = GracefulShutdown::new();
    loop {
        let accepted = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        let (stream, place) = tokio::select! {
            () = shutdown.cancelled() => break,
            (stream, place) = accepted => (stream, place),
        };
        let Ok((stream, _)) = stream else {
            // Out of descriptors, say: the next one may work.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (exposition, health) = (Arc::clone(&exposition), Arc::clone(&health));
        let service = service_fn(move |request: Request<Incoming>| {
            let response = answer(&request, &exposition, &health);
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service);
        let connection = under_way.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!("a connection: {error}");
            }
            drop(place);
        });
    }
    let _ = tokio::time::timeout(FAREWELL, under_way.shutdown()).await;
}

fn answer<B>(request: &Request<B>, exposition: &Exposition, health: &Health) -> Response<Full<Bytes>> {
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            let format = Format::accepted(request.headers().get_all(ACCEPT));
            let mut response = text(StatusCode::OK, exposition.text(format));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
            response
        }
        "/healthz" => {
            let complaints: Vec<String> = health
                .jobs()
                .into_iter()
                .filter_map(|job| Some(format!("{}: {}\n", job.name, job.complaint?)))
                .collect();
            if complaints.is_empty() {
                text(StatusCode::OK, "ok\n".to_owned())
            } else {
                text(StatusCode::SERVICE_UNAVAILABLE, complaints.concat())
            }
        }
        "/" => text(StatusCode::OK, "vcuda-node: /metrics /healthz\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "not here; see /metrics and /healthz\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
