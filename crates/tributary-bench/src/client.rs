//! One HTTP/1.1 keep-alive connection.
//!
//! It supports only as much of HTTP as replies of the server need. One core can therefore load a
//! server that uses a whole core itself.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::tokens::UserTokens;

/// Longer replies are an error. A page of the server is far shorter.
const REPLY_BYTES_MAX: usize = 4 << 20;
const BUFFER_BYTES: usize = 64 << 10;
/// The longest wait for a reply; the server's own deadline is much shorter.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was idle longer is replaced: servers close idle connections after 10 s.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// The environment variable with the credential of all requests. An argument would be visible to
/// other users of the machine.
const CREDENTIAL_VARIABLE: &str = "TRIBUTARY_CREDENTIAL";

/// The address of a server, and the credential for it.
#[derive(Clone)]
pub(super) struct Target {
    address: SocketAddr,
    /// For the `Host` header.
    host: String,
    /// The path of the base URL, without a trailing slash; usually empty.
    prefix: String,
    /// The `Authorization` header with its line end; empty if no credential is given.
    authorization: String,
    tokens: Option<UserTokens>,
    /// Each answer is one that the client has: 304.
    known: bool,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.host)
    }
}

impl Target {
    /// Resolves `http://HOST[:PORT][/PATH]`; the name server has 10 s.
    ///
    /// # Errors
    /// If the text is not such a URL, or if the host cannot be resolved in time.
    pub(super) async fn find(url: &str) -> Result<Self> {
        let parsed = Url::parse(url).with_context(|| format!("{url} is not a URL"))?;
        if parsed.scheme() != "http" {
            bail!("{url}: only http:// is supported");
        }
        let host = parsed.host_str().with_context(|| format!("{url} names no host"))?;
        let port = parsed.port_or_known_default().unwrap_or(80);
        let unbracketed = host.trim_start_matches('[').trim_end_matches(']');
        let found = timeout(REPLY_TIMEOUT, tokio::net::lookup_host((unbracketed, port))).await;
        let mut found =
            found.context("the name server did not answer")?.with_context(|| url.to_owned())?;
        let address = found.next().with_context(|| format!("{url}: no such host"))?;
        let prefix = parsed.path().trim_end_matches('/').to_owned();
        let authorization = match std::env::var(CREDENTIAL_VARIABLE) {
            Ok(credential) => format!("authorization: Bearer {credential}\r\n"),
            Err(_) => String::new(),
        };
        Ok(Self {
            address,
            host: format!("{host}:{port}"),
            prefix,
            authorization,
            tokens: None,
            known: false,
        })
    }

    /// Sends the token of its user with each request, instead of one credential for all.
    pub(super) fn with_tokens(self, tokens: Option<UserTokens>) -> Self {
        Self { tokens, ..self }
    }

    /// Sends `If-None-Match: *`, which is answered 304, with each request.
    pub(super) fn with_known(self, known: bool) -> Self {
        Self { known, ..self }
    }
}

/// A connection, opened by the first request.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    stream: Option<(TcpStream, Instant)>,
    request: Vec<u8>,
    reply: Vec<u8>,
}

/// The body of the answer to one GET request at `http://HOST[:PORT]`.
///
/// # Errors
/// The server cannot be reached, or its answer is not 200.
pub async fn get(url: &str, path: &str) -> Result<Vec<u8>> {
    let mut client = Client::new(Target::find(url).await?);
    let reply = client.exchange(Request::get(path)).await?;
    match reply.status {
        200 => Ok(reply.body.to_vec()),
        401 | 403 => bail!("the server needs a credential; set {CREDENTIAL_VARIABLE}"),
        status => bail!("the server answered {status}"),
    }
}

/// A request to send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    /// The value of the `Tributary-Freshness` header; no such header if empty.
    pub(super) freshness: &'a str,
    /// JSON; no body if empty.
    pub(super) body: &'a str,
}

impl<'a> Request<'a> {
    pub(super) fn get(path: &'a str) -> Self {
        Self { method: "GET", path, freshness: "", body: "" }
    }
}

/// A reply; it borrows the buffer of its [`Client`].
#[derive(Debug)]
pub(super) struct Reply<'a> {
    pub(super) status: u16,
    pub(super) freshness: Option<&'a str>,
    pub(super) body: &'a [u8],
}

impl Client {
    pub(super) fn new(target: Target) -> Self {
        let (request, reply) = (Vec::with_capacity(1024), vec![0; BUFFER_BYTES]);
        Self { target, stream: None, request, reply }
    }

    /// Sends a request and waits up to 10 s for its reply, of 4 MiB at most. After an error the
    /// next call opens a new connection.
    pub(super) async fn exchange(&mut self, request: Request<'_>) -> Result<Reply<'_>> {
        self.write(request);
        let (head, end) = match timeout(REPLY_TIMEOUT, self.send_and_read()).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                self.stream = None;
                return Err(error);
            }
            Err(_) => {
                self.stream = None;
                return Err(anyhow!("no reply within {} s", REPLY_TIMEOUT.as_secs()));
            }
        };
        let text = std::str::from_utf8(&self.reply[..head.bytes]).unwrap_or_default();
        let freshness = text.lines().find_map(|line| value(line, "tributary-freshness"));
        Ok(Reply { status: head.status, freshness, body: &self.reply[head.bytes..end] })
    }

    fn write(&mut self, request: Request<'_>) {
        let Target { host, prefix, authorization, tokens, known, .. } = &self.target;
        let Request { method, path, freshness, body } = request;
        let authorization = match tokens {
            Some(tokens) => tokens.header_of(path),
            None => authorization,
        };
        let buffer = &mut self.request;
        buffer.clear();
        let mut put = |parts: &[&str]| parts.iter().for_each(|part| buffer.extend(part.as_bytes()));
        put(&[method, " ", prefix, path, " HTTP/1.1\r\nhost: ", host, "\r\n", authorization]);
        if *known {
            put(&["if-none-match: *\r\n"]);
        }
        if !freshness.is_empty() {
            put(&["tributary-freshness: ", freshness, "\r\n"]);
        }
        if !body.is_empty() {
            let length = body.len().to_string();
            put(&["content-type: application/json\r\ncontent-length: ", &length, "\r\n"]);
        }
        put(&["\r\n", body]);
    }

    /// Returns the head of the reply, and the end of its body in the buffer.
    async fn send_and_read(&mut self) -> Result<(ReplyHead, usize)> {
        let fresh = self.stream.take().filter(|(_, used)| used.elapsed() < IDLE_MAX);
        let mut stream = match fresh {
            Some((stream, _)) => stream,
            None => {
                let stream = TcpStream::connect(self.target.address).await;
                let stream =
                    stream.with_context(|| format!("cannot reach {}", self.target.host))?;
                stream.set_nodelay(true)?;
                stream
            }
        };
        let mut sent = 0;
        while sent < self.request.len() {
            let rest = &self.request[sent..];
            sent += std::future::poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, rest)).await?;
        }
        let mut filled = 0;
        let (head, end) = loop {
            if filled == self.reply.len() {
                if filled >= REPLY_BYTES_MAX {
                    bail!("the reply is longer than {REPLY_BYTES_MAX} bytes");
                }
                self.reply.resize(filled * 2, 0);
            }
            let read = read(&mut stream, &mut self.reply[filled..]).await?;
            if read == 0 {
                bail!("the server closed the connection");
            }
            filled += read;
            if let Some(head) = ReplyHead::parse(&self.reply[..filled])? {
                let end = head.bytes.checked_add(head.body).filter(|end| *end <= REPLY_BYTES_MAX);
                let end = end.context("the reply is too long")?;
                if filled >= end {
                    break (head, end);
                }
            }
        };
        if !head.closes {
            self.stream = Some((stream, Instant::now()));
        }
        Ok((head, end))
    }
}

/// One `read`. After a short read the runtime knows that the socket is empty, so the next read
/// waits without a system call.
async fn read(stream: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
    std::future::poll_fn(|cx| {
        let mut buffer = ReadBuf::new(into);
        match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
            Poll::Ready(done) => Poll::Ready(done.map(|()| buffer.filled().len())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// The parsed head of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ReplyHead {
    status: u16,
    /// Length of the head, in bytes.
    bytes: usize,
    /// Length of the body, in bytes.
    body: usize,
    /// Whether the server closes the connection after this reply.
    closes: bool,
}

impl ReplyHead {
    /// Parses the head; `None` if it is incomplete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text =
            std::str::from_utf8(&bytes[..end]).context("the head of a reply is not UTF-8")?;
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.and_then(|digits| digits.parse().ok());
        let status: u16 = status.context("the reply is not HTTP/1.1")?;
        let mut head = Self { status, bytes: end + 4, body: 0, closes: false };
        let mut has_length = matches!(status, 204 | 304);
        for line in lines {
            if let Some(length) = value(line, "content-length") {
                head.body = length.parse().context("a Content-Length is not a number")?;
                has_length = true;
            }
            head.closes |=
                value(line, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        }
        if has_length {
            Ok(Some(head))
        } else {
            bail!("a reply has no Content-Length, which this client needs")
        }
    }
}

/// The value of a header line, if the header has this name.
fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (found, value) = line.split_at_checked(name.len())?;
    let value = value.strip_prefix(':')?;
    found.eq_ignore_ascii_case(name).then(|| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_head_is_not_parsed() {
        let text = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nconnection: Close\r\n\r\n{}";
        for cut in 0..text.len() - 2 {
            assert_eq!(ReplyHead::parse(&text[..cut]).unwrap(), None, "{cut}");
        }
        let head = ReplyHead { status: 200, bytes: text.len() - 2, body: 12, closes: true };
        assert_eq!(ReplyHead::parse(text).unwrap(), Some(head));
        let none = ReplyHead::parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().unwrap();
        assert_eq!((none.status, none.body, none.closes), (204, 0, false));
        for bad in ["HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 2\r\n\r\n", "hello\r\n\r\n"] {
            assert!(ReplyHead::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
