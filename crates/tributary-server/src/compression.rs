//! Compression of long answers, for clients that accept it.

use std::future::ready;

use axum::http::{HeaderValue, Request, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{Either, Full};
use hyper::body::Body;
use tower::{Service, service_fn};
use tower_http::CompressionLevel;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::compression::{Compression, CompressionBody};

use super::error::ApiError;
use super::frame;
use super::stream::AnswerBody;

/// Shorter answers are not compressed: that takes longer than to send them.
const COMPRESSED_FROM: usize = 32 << 10;
/// Bytes that an encoder holds while its answer is sent.
const ENCODER_BYTES: usize = 320 << 10;

/// The body of an answer before compression.
pub(super) type PlainBody = Either<Full<Bytes>, AnswerBody>;
pub(super) type AnyBody = Either<PlainBody, CompressionBody<PlainBody>>;

/// The bytes that an answer of this length takes until it is sent.
pub(super) fn bytes_held(accepted: Option<&HeaderValue>, bytes: usize) -> usize {
    let may_be_compressed = bytes >= COMPRESSED_FROM && accepted.is_some();
    bytes + if may_be_compressed { ENCODER_BYTES } else { 0 }
}

/// The answer, compressed if it is long and the client accepts that (`Accept-Encoding`). Streams
/// are not: an encoder would delay their events.
pub(super) fn compressed(
    accepted: Option<HeaderValue>,
    answer: Response<PlainBody>,
) -> Response<AnyBody> {
    let bytes = answer.body().size_hint().exact().unwrap_or(0);
    if bytes < COMPRESSED_FROM as u64 {
        return answer.map(Either::Left);
    }
    let mut request = Request::new(());
    request.headers_mut().extend(accepted.map(|accepted| (header::ACCEPT_ENCODING, accepted)));
    let mut answer = Some(answer);
    let answered = service_fn(move |_: Request<()>| ready(answer.take().ok_or(AlreadyTaken)));
    let rule = SizeAbove::new(COMPRESSED_FROM as u64).and(NotForContentType::SSE);
    let mut encoding =
        Compression::new(answered).quality(CompressionLevel::Fastest).compress_when(rule);
    match encoding.call(request).now_or_never() {
        Some(Ok(encoded)) => encoded.map(Either::Right),
        // The service above is ready at once, and it is called once.
        Some(Err(AlreadyTaken)) | None => {
            let plain = frame::rejection(&ApiError::Internal);
            plain.map(|body| Either::Left(Either::Right(AnswerBody::new(body, None))))
        }
    }
}

struct AlreadyTaken;
