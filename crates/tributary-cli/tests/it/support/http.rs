//! An HTTP server on a free port, and requests to it.

use std::io::Read;
use std::net::SocketAddr;

use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tributary::{Config, Tributary};
use tributary_server::{self as http, Access, BoundServer, CursorKeys, Reloading, RouterOptions};

/// A server with all routes that stops when dropped. Each request uses a new connection.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    /// The keys that seal the server's cursors and freshness tokens.
    pub(crate) cursor_keys: CursorKeys,
    _stop: oneshot::Sender<()>,
}

/// A whole HTTP response.
#[derive(Debug)]
pub(crate) struct TestResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl TestServer {
    pub(crate) async fn start(tributary: Tributary) -> Self {
        Self::start_with(tributary, Access::local(&["feeds.example.org".into()])).await
    }

    pub(crate) async fn start_with(tributary: Tributary, access: Access) -> Self {
        let mut options = RouterOptions::default();
        options.access = access;
        Self::start_as(tributary, options).await
    }

    pub(crate) async fn start_as(tributary: Tributary, options: RouterOptions) -> Self {
        let cursor_keys = options.cursor_keys.clone();
        let bound = http::bind_with("127.0.0.1:0".parse().unwrap(), options).await.unwrap();
        Self::start_bound(bound, cursor_keys, tributary)
    }

    /// Serves all routes on a listening socket, with these keys of its cursors.
    pub(crate) fn start_bound(
        bound: BoundServer,
        cursor_keys: CursorKeys,
        tributary: Tributary,
    ) -> Self {
        let bound = bound.with_admin_routes();
        let address = bound.address();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(bound.serve(tributary, async move { drop(stopped.await) }));
        Self { address, cursor_keys, _stop: stop }
    }

    /// A server with a listener for clients and one for operators. Both stop with the first. With a
    /// configuration it checks the servers, as `tributary serve` does.
    pub(crate) async fn start_pair(
        tributary: Tributary,
        options: RouterOptions,
        config: Option<Config>,
    ) -> (Self, Self) {
        let any = || "127.0.0.1:0".parse().unwrap();
        let cursor_keys = options.cursor_keys.clone();
        let bound = http::bind_with(any(), options).await.unwrap();
        let (bound, admin) = bound.with_admin(any()).await.unwrap();
        let bound = match config {
            Some(config) => bound.with_reload(reloading(config)),
            None => bound,
        };
        let address = bound.address();
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(bound.serve(tributary, async move { drop(stopped.await) }));
        let (keys, unused) = (cursor_keys.clone(), oneshot::channel().0);
        let operators = Self { address: admin, cursor_keys: keys, _stop: unused };
        (Self { address, cursor_keys, _stop: stop }, operators)
    }

    pub(crate) async fn get(&self, path: &str) -> TestResponse {
        self.send(Request::get(path)).await
    }

    pub(crate) async fn get_as(&self, path: &str, credential: &str) -> TestResponse {
        let authorization = format!("Bearer {credential}");
        self.send(Request::get(path).header("authorization", authorization)).await
    }

    /// Posts JSON, under an `Idempotency-Key` if there is one.
    pub(crate) async fn post(
        &self,
        path: &str,
        body: impl AsRef<[u8]>,
        key: Option<&str>,
    ) -> TestResponse {
        let mut request = Request::post(path).header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send_with(request, Bytes::copy_from_slice(body.as_ref())).await
    }

    pub(crate) async fn send(&self, request: hyper::http::request::Builder) -> TestResponse {
        self.send_with(request, Bytes::new()).await
    }

    pub(crate) async fn send_with(
        &self,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> TestResponse {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let own_host = request.headers_ref().is_some_and(|headers| headers.contains_key("host"));
        let request = if own_host { request } else { request.header("host", "localhost") };
        let request = request.body(Full::new(body)).unwrap();
        let response = sender.send_request(request).await.unwrap();
        let (head, body) = response.into_parts();
        // A stream of events has no end.
        let is_stream =
            head.headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
        let mut body = match is_stream {
            true => Vec::new(),
            false => body.collect().await.unwrap().to_bytes().to_vec(),
        };
        let encoding = head.headers.get("content-encoding");
        if encoding.is_some_and(|encoding| encoding == "gzip") && !body.is_empty() {
            let mut decoded = Vec::new();
            GzDecoder::new(body.as_slice()).read_to_end(&mut decoded).unwrap();
            body = decoded;
        }
        TestResponse {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8(body).unwrap(),
        }
    }
}

impl TestResponse {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status and the stable code of an RFC 9457 problem; panics on any other response.
    pub(crate) fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert_eq!(problem["trace_id"].as_str().unwrap().len(), 32);
        (self.status.as_u16(), problem["code"].as_str().unwrap().to_owned())
    }
}

/// A configuration that never changes.
fn reloading(config: Config) -> Reloading {
    let same = config.clone();
    Reloading {
        config,
        read: Box::new(move || Ok(same.clone())),
        apply_log: Box::new(|_| ()),
        requests: mpsc::channel(1).1,
    }
}
