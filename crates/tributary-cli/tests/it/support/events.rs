//! Streams of server-sent events, read as a client does.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tributary::UserId;

/// The longest wait for an event.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// The path of the stream of a home timeline.
pub(crate) fn path(reader: UserId) -> String {
    format!("/v1/users/{reader}/feed/live")
}

/// An open stream of events.
pub(crate) struct Stream {
    pub(crate) head: hyper::http::response::Parts,
    body: Incoming,
    /// Bytes after the last complete event.
    rest: Vec<u8>,
    connection: JoinHandle<()>,
}

/// A block of a stream.
#[derive(Debug, Default)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: String,
}

impl Stream {
    pub(crate) async fn open(address: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), path, headers).await
    }

    /// Opens a stream on a connection.
    pub(crate) async fn over(
        socket: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await.unwrap();
        let connection = tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::get(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        Self::of(sender.send_request(request).await.unwrap(), connection)
    }

    /// The stream of an answer, and the task of its connection.
    pub(crate) fn of(answer: Response<Incoming>, connection: JoinHandle<()>) -> Self {
        let (head, body) = answer.into_parts();
        Self { head, body, rest: Vec::new(), connection }
    }

    /// The next block; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.rest.windows(2).position(|two| two == b"\n\n") {
                let block: Vec<u8> = self.rest.drain(..end + 2).collect();
                return Some(Event::parse(std::str::from_utf8(&block).unwrap()));
            }
            let frame =
                timeout(WAIT_MAX, self.body.frame()).await.expect("nothing is sent")?.ok()?;
            self.rest.extend(frame.into_data().unwrap());
        }
    }

    /// The next block with a name.
    pub(crate) async fn event(&mut self) -> Event {
        let event = async {
            loop {
                let event = self.next().await.expect("the stream continues");
                if !event.name.is_empty() {
                    return event;
                }
            }
        };
        timeout(WAIT_MAX, event).await.expect("no event comes")
    }

    pub(crate) async fn ends(&mut self) {
        let end = async { while self.next().await.is_some() {} };
        timeout(WAIT_MAX, end).await.expect("the stream does not end");
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Event {
    pub(crate) fn parse(block: &str) -> Self {
        let mut event = Self::default();
        for line in block.lines().filter(|line| !line.is_empty()) {
            match line.split_once(':').unwrap() {
                ("event", value) => event.name = value.trim_start().to_owned(),
                ("id", value) => event.id = value.trim_start().to_owned(),
                ("data", value) => event.data = value.trim_start().to_owned(),
                ("retry", value) => assert!(value.trim().parse::<u32>().is_ok()),
                ("", _) => {}
                other => panic!("{other:?}"),
            }
        }
        event
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
