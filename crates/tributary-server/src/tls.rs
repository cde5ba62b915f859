//! TLS of a listener: the certificate and its key, from PEM files that are read again when they
//! change, and the handshake.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{error, info, warn};
use tributary::config::HttpTls;
use tributary::internal::stats::Occurrences;
use tributary::internal::tasks::TaskStats;
use tributary::internal::{now_ms, rfc3339_ms};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use super::audit;
use super::files;
use super::stream::ClientStream;
use super::watched::{Files, Watched};

/// The time limit of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest PEM file, in bytes.
const FILE_BYTES_MAX: u64 = 256 * 1024;
/// Largest chain of certificates.
const CHAIN_MAX: usize = 10;
/// The time before the end of a certificate in which the log warns of it.
const EXPIRY_NEAR_S: i64 = 14 * 24 * 60 * 60;
/// The first byte of every TLS connection: a record of the type "handshake".
const HANDSHAKE_RECORD: u8 = 0x16;
/// The answer to a client that does not speak TLS.
const NO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Connection: close\r\nContent-Length: 47\r\n\r\nThis port speaks TLS only; use https:// for it.";

const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// The certificate of a listener. Cheap to clone. The files are read again within a second after a
/// change, until the last clone is dropped.
#[derive(Clone)]
pub struct Certificate(Arc<Watched<HttpTls>>);

/// A certificate that cannot be used; the text says what to change.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct CertificateError(String);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[certificate]")
    }
}

impl Certificate {
    /// Reads the files, and starts a task on the current tokio runtime that reads them again.
    ///
    /// # Errors
    /// A file cannot be read, other users can read the key, or the two do not belong together.
    pub fn open(files: &HttpTls) -> Result<Self, CertificateError> {
        Watched::open(files.clone()).map(Self).map_err(CertificateError)
    }

    /// Reads the files now, to take effect later.
    ///
    /// # Errors
    /// They cannot be used. The earlier certificate stays in effect.
    pub(super) fn prepare(&self) -> Result<impl FnOnce() -> bool, String> {
        self.0.prepare().map(|prepared| || prepared.commit())
    }

    /// The end of its validity, in seconds since 1970; `None` if it cannot be decoded.
    pub(super) fn expires_s(&self) -> Option<i64> {
        self.0.current().value.validity.map(|(_, end)| end)
    }

    /// The task that reads the files again.
    pub(super) fn tasks(&self) -> Vec<TaskStats> {
        self.0.tasks()
    }

    /// Ends this task.
    pub(super) async fn close(&self) {
        self.0.close().await;
    }

    /// The handshake with a client. `None` if it does not speak TLS; it is answered why.
    ///
    /// # Errors
    /// The handshake fails or takes too long.
    pub(super) async fn accept(
        &self,
        stream: ClientStream,
    ) -> io::Result<Option<TlsStream<ClientStream>>> {
        let config = Arc::clone(&self.0.current().value.config);
        let accept = async {
            if !speaks_tls(stream.socket()).await? {
                refuse(stream).await?;
                return Ok(None);
            }
            TlsAcceptor::from(config).accept(stream).await.map(Some)
        };
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long");
        timeout(HANDSHAKE_TIMEOUT, accept).await.map_err(|_| late())?
    }
}

/// Whether the client has chosen HTTP/2.
pub(super) fn chose_http2(stream: &TlsStream<ClientStream>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

/// Whether the first byte of the client is one of TLS. A client that closes speaks nothing.
async fn speaks_tls(socket: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let bytes = socket.peek(&mut first).await?;
    Ok(bytes == 0 || first == [HANDSHAKE_RECORD])
}

/// Answers a client that sends plain HTTP. Unread bytes would make the system drop the answer.
async fn refuse(mut stream: ClientStream) -> io::Result<()> {
    let mut request = Vec::with_capacity(16 * 1024);
    stream.read_buf(&mut request).await?;
    stream.write_all(NO_TLS).await?;
    stream.shutdown().await
}

/// A certificate with its key, ready to be used.
pub(super) struct Usable {
    config: Arc<ServerConfig>,
    /// Start and end, in seconds since 1970; `None` if they cannot be decoded.
    validity: Option<(i64, i64)>,
    /// The warnings about each [`Term`], so that each is logged once an hour.
    warned: [Occurrences; 4],
}

/// A time in relation to the validity of a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    Valid,
    EndsSoon,
    Ended,
    NotYet,
}

impl Term {
    /// The end is near in the last 14 days, or in the last quarter of a shorter validity.
    fn at(now: i64, (start, end): (i64, i64)) -> Self {
        let near = end.saturating_sub(start) / 4;
        match now {
            now if now > end => Self::Ended,
            now if now < start => Self::NotYet,
            now if end - now < near.min(EXPIRY_NEAR_S) => Self::EndsSoon,
            _ => Self::Valid,
        }
    }
}

fn validity_of(certificate: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

impl Files for HttpTls {
    const NAME: &'static str = "certificate";
    /// The certificate and the key.
    type Texts = [String; 2];
    type Value = Usable;

    fn read(&self) -> Result<[String; 2], String> {
        let at = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let certificate = files::read_any(&self.certificate, FILE_BYTES_MAX);
        let (certificate, _) = certificate.map_err(|error| at(&self.certificate, error))?;
        let key = files::read_hidden(&self.key, FILE_BYTES_MAX);
        Ok([certificate, key.map_err(|error| at(&self.key, error))?])
    }

    fn parse(&self, [certificate, key]: &[String; 2]) -> Result<Usable, String> {
        let at = |path: &Path, text: &str| format!("{}: {text}", path.display());
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(certificate.as_bytes()).take(CHAIN_MAX + 1).collect();
        let chain = chain.ok().filter(|chain| (1..=CHAIN_MAX).contains(&chain.len()));
        let text = format!("not 1 to {CHAIN_MAX} certificates in PEM format");
        let chain = chain.ok_or_else(|| at(&self.certificate, &text))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|_| at(&self.key, "not an unencrypted private key in PEM format"))?;
        let validity = chain.first().and_then(validity_of);
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.map_err(|error| {
            let text = format!("does not fit to the key {}: {error}", self.key.display());
            at(&self.certificate, &text)
        })?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        let warned = Default::default();
        Ok(Usable { config: Arc::new(config), validity, warned })
    }

    fn look(&self, usable: &Usable) {
        let path = self.certificate.display();
        let Some((start, end)) = usable.validity else { return };
        let term = Term::at(now_ms() / 1000, (start, end));
        if term == Term::Valid || !usable.warned[term as usize].note() {
            return;
        }
        let expires = rfc3339_ms(end.saturating_mul(1000));
        match term {
            Term::Valid => {}
            Term::EndsSoon => warn!(
                certificate = %path,
                expires,
                "Certificate expires soon; replace its files, which are read again at once"
            ),
            Term::Ended => error!(
                certificate = %path,
                expires,
                "Certificate has expired, and clients refuse it; replace its files"
            ),
            Term::NotYet => error!(
                certificate = %path,
                "Certificate is not valid yet, and clients refuse it; check the clock and the file"
            ),
        }
    }

    fn log_read(&self, old: Option<&Usable>, _: &Usable) {
        let certificate = self.certificate.display();
        match old {
            None => info!(%certificate, "Certificate was read"),
            Some(_) => {
                info!(%certificate, "Certificate was read again; new connections use it");
                audit::certificate_changed(&certificate.to_string());
            }
        }
    }

    fn log_kept(&self, problem: &str) {
        error!(
            problem,
            "Certificate cannot be read again; the earlier one stays in effect until it expires"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_valid_until_the_last_part_of_its_time() {
        const DAY: i64 = 24 * 60 * 60;
        let at = |now: i64, days: i64| Term::at(now, (DAY, DAY + days * DAY));
        assert_eq!([at(0, 90), at(DAY, 90)], [Term::NotYet, Term::Valid]);
        assert_eq!([at(76 * DAY, 90), at(78 * DAY, 90)], [Term::Valid, Term::EndsSoon]);
        assert_eq!([at(5 * DAY, 6), at(6 * DAY, 6)], [Term::Valid, Term::EndsSoon]);
        assert_eq!([at(91 * DAY, 90), at(91 * DAY + 1, 90)], [Term::EndsSoon, Term::Ended]);
    }
}
