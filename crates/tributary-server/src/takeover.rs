//! Streams of events on HTTP/1.1 connections are not written by hyper, whose buffers take 16 KiB:
//! more than everything else that an idle stream has. The service of the connection offers the
//! answer here, and the task of the connection then takes the socket out of hyper.

use std::future::pending;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::response::Parts;
use axum::http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use super::compression::AnyBody;
use super::connections::Connection;

/// A client that sends more than this during a stream does not wait for its end. It would not be
/// answered.
const UNREAD_BYTES_MAX: usize = 16 * 1024;

/// An answer that takes over its connection.
#[derive(Clone, Default)]
pub(super) struct Takeover(Arc<Offer>);

#[derive(Default)]
struct Offer {
    answer: Mutex<Option<Response<AnyBody>>>,
    made: Notify,
}

impl Takeover {
    /// Offers an answer. Never completes: the connection drops the request.
    pub(super) async fn offer<T>(&self, answer: Response<AnyBody>) -> T {
        *self.0.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.0.made.notify_one();
        pending().await
    }

    /// Completes once an answer takes over the connection.
    pub(super) async fn offered(&self) -> Response<AnyBody> {
        loop {
            self.0.made.notified().await;
            let answer = self.0.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(answer) = answer {
                return answer;
            }
        }
    }
}

/// Sends an answer whose end is that of the connection.
pub(super) async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    mut io: S,
    answer: Response<AnyBody>,
    connection: &Connection,
) -> io::Result<()> {
    let (Parts { status, headers, .. }, body) = answer.into_parts();
    tokio::select! {
        sent = async {
            io.write_all(&head(status, &headers)).await?;
            send_body(&mut io, body).await
        } => sent,
        () = connection.closing() => Ok(()),
    }
}

async fn send_body<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    mut body: AnyBody,
) -> io::Result<()> {
    let (mut unread, mut bytes) = ([0; 64], 0);
    loop {
        io.flush().await?;
        tokio::select! {
            frame = body.frame() => match frame {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        io.write_all(&data).await?;
                    }
                }
                Some(Err(_)) | None => return io.shutdown().await,
            },
            read = io.read(&mut unread) => {
                let read = read?;
                bytes += read;
                if read == 0 || bytes > UNREAD_BYTES_MAX {
                    return Ok(());
                }
            }
        }
    }
}

/// The head of the answer.
fn head(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in headers {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    if let Ok(date) = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now()) {
        head.extend(format!("date: {date}\r\n").into_bytes());
    }
    head.extend(b"connection: close\r\n\r\n");
    head
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;

    #[test]
    fn the_head_has_all_headers_and_ends_the_connection() {
        let kind = HeaderValue::from_static("text/event-stream");
        let head = head(StatusCode::OK, &HeaderMap::from_iter([(header::CONTENT_TYPE, kind)]));
        let head = String::from_utf8(head).unwrap();
        let lines: Vec<&str> = head.split("\r\n").collect();
        assert_eq!(lines[..2], ["HTTP/1.1 200 OK", "content-type: text/event-stream"]);
        assert!(lines[2].starts_with("date: ") && lines[2].ends_with(" GMT"), "{head:?}");
        assert_eq!(lines[3..], ["connection: close", "", ""]);
    }
}
