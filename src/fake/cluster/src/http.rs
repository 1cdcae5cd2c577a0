//! The protocol: paths, queries, and watches as lines that come while they last.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::Cluster;
use crate::objects::metadata;
use crate::place::Place;

/// How long a watch lasts at most.
const WATCH: Duration = Duration::from_secs(300);

type Body = UnsyncBoxBody<Bytes, Infallible>;

pub async fn serve(listener: TcpListener, cluster: Cluster) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let cluster = cluster.clone();
                async move { Ok::<_, Infallible>(cluster.answer(request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Cluster {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let object: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path = parts.uri.path();
        if path == "/fake/faults" {
            let status = u16::try_from(object["status"].as_u64().unwrap_or(0)).unwrap_or(0);
            self.fail(object["request"].as_str().unwrap_or_default(), status);
            return json_answer(StatusCode::OK, &json!({}));
        }
        let shown = format!("{} {}", parts.method, parts.uri);
        if let Some(code) = self.fault(&shown) {
            return failure(
                StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                "as asked for",
            );
        }
        let query = query(parts.uri.query().unwrap_or_default());
        let Some(place) = Place::parse(path) else { return failure(StatusCode::NOT_FOUND, path) };
        let selector = query.get("fieldSelector").map_or("", String::as_str);
        match (parts.method, &place.name) {
            (Method::GET, Some(_)) => match self.objects().get(&place) {
                Some(object) => json_answer(StatusCode::OK, object),
                None => failure(StatusCode::NOT_FOUND, path),
            },
            (Method::GET, None)
                if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") =>
            {
                let since =
                    query.get("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
                self.watch(place, selector.to_owned(), since)
            }
            (Method::GET, None) => {
                let objects = self.objects();
                let list = json!({
                    "apiVersion": place.version, "kind": "List",
                    "metadata": {"resourceVersion": objects.version().to_string()},
                    "items": objects.list(&place, selector),
                });
                json_answer(StatusCode::OK, &list)
            }
            (Method::POST, None) => self.create(place, object),
            (Method::PUT, Some(_)) => {
                json_answer(StatusCode::OK, &self.change(|objects| objects.put(&place, object)))
            }
            (Method::PATCH, Some(_)) => self.apply(&place, object, query.get("fieldManager")),
            (Method::DELETE, name) => {
                let gone = self.change(|objects| objects.delete(&place, selector));
                match gone.first() {
                    None if name.is_some() => failure(StatusCode::NOT_FOUND, path),
                    _ => json_answer(
                        StatusCode::OK,
                        &json!({"apiVersion": "v1", "kind": "Status", "status": "Success"}),
                    ),
                }
            }
            (method, _) => failure(StatusCode::METHOD_NOT_ALLOWED, method.as_str()),
        }
    }

    fn create(&self, mut place: Place, object: Value) -> Response<Body> {
        let name = object["metadata"]["name"].as_str().map(str::to_owned);
        let Some(name) = name else {
            return failure(StatusCode::UNPROCESSABLE_ENTITY, "the object has no name");
        };
        place.name = Some(name);
        if self.objects().get(&place).is_some() {
            return failure(StatusCode::CONFLICT, "there is one");
        }
        json_answer(StatusCode::CREATED, &self.change(|objects| objects.put(&place, object)))
    }

    /// As a server's own apply, of an object that one manager owns all of.
    fn apply(&self, place: &Place, mut object: Value, manager: Option<&String>) -> Response<Body> {
        let Some(manager) = manager else {
            return failure(StatusCode::BAD_REQUEST, "apply needs a fieldManager");
        };
        metadata(&mut object)
            .insert("managedFields".to_owned(), json!([{"manager": manager, "operation": "Apply"}]));
        let is_new = self.objects().get(place).is_none();
        let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
        json_answer(status, &self.change(|objects| objects.put(place, object)))
    }

    fn watch(&self, place: Place, selector: String, since: u64) -> Response<Body> {
        let (cluster, news) = (self.clone(), self.version.subscribe());
        let end = tokio::time::Instant::now() + WATCH;
        let lines = stream::unfold((since, news), move |(mut since, mut news)| {
            let (cluster, place, selector) = (cluster.clone(), place.clone(), selector.clone());
            async move {
                loop {
                    let version = *news.borrow_and_update();
                    let changes = cluster.objects().changes_since(since, &place, &selector);
                    since = since.max(version);
                    if let Some(last) = changes.last() {
                        since = since.max(last.version);
                        let line = |change: &crate::objects::Change| {
                            format!("{}\n", json!({"type": change.kind, "object": change.object}))
                        };
                        let text: String = changes.iter().map(line).collect();
                        return Some((Ok(Frame::data(Bytes::from(text))), (since, news)));
                    }
                    tokio::time::timeout_at(end, news.changed()).await.ok()?.ok()?;
                }
            }
        });
        let body = StreamBody::new(Box::pin(lines));
        with_type(Response::new(body.boxed_unsync()))
    }
}

fn with_type(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = status;
    with_type(response)
}

fn failure(status: StatusCode, what: &str) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or("Unknown").replace(' ', "");
    let value = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "metadata": {},
        "message": format!("{what}: {reason}"), "reason": reason, "code": status.as_u16(),
    });
    json_answer(status, &value)
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value))).collect()
}

/// Without the `%2F` and `+` of URLs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let code = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, code.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read() {
        let found = query("fieldSelector=spec.nodeName%3Dn1%2Cspec.driver%3Dx&watch=true&odd");
        assert_eq!(found["fieldSelector"], "spec.nodeName=n1,spec.driver=x");
        assert_eq!(found["watch"], "true");
        assert_eq!(decoded("a%2+b%zz"), "a%2 b%zz");
    }
}
