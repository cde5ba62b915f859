//! TLS and HTTP/2 of the listener, with an authority made in the test.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tributary::Tributary;
use tributary::config::HttpTls;
use tributary_server::{Certificate, RouterOptions, bind_with};

use crate::news::execute;
use crate::support::events::{Stream, path};
use crate::support::fleet::{Backend, SHARDS, Tables, TestFleet};
use crate::support::watch::Watch;
use crate::support::world::World;
use crate::support::{run, scratch, user_id};

/// The longest wait for something that takes seconds.
const WAIT_MAX: Duration = Duration::from_secs(40);

/// An authority, and files with a certificate of it.
struct Authority {
    dir: TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Self {
        let mut own = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let name = format!("authority {}", rand::random::<u64>());
        own.distinguished_name.push(rcgen::DnType::CommonName, name);
        own.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = own.self_signed(&key).unwrap().der().clone();
        Self { dir: scratch(), issuer: rcgen::Issuer::new(own, key), certificate }
    }

    fn files(&self) -> HttpTls {
        HttpTls::new(self.dir.path().join("certificate.pem"), self.dir.path().join("key.pem"))
    }

    /// Writes a certificate for `localhost` that ends in this year, and its key.
    fn issue(&self, last_year: i32) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut own = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        own.not_before = rcgen::date_time_ymd(2001, 1, 1);
        own.not_after = rcgen::date_time_ymd(last_year, 1, 1);
        let certificate = own.signed_by(&key, &self.issuer).unwrap();
        let HttpTls { certificate: file, key: key_file, .. } = self.files();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        private(&key_file);
        fs::write(file, certificate.pem()).unwrap();
    }

    /// A connection that trusts this authority.
    async fn connect(
        &self,
        address: SocketAddr,
        name: &'static str,
        protocol: &[u8],
    ) -> Result<TlsStream<TcpStream>, String> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name).unwrap();
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        connected.map_err(|error| error.to_string())
    }

    /// The status of `/livez`, or why the connection is refused.
    async fn livez(&self, address: SocketAddr, name: &'static str) -> Result<u16, String> {
        let stream = self.connect(address, name, b"http/1.1").await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/livez").header("host", "localhost");
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await;
        answer.map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
    }

    /// Waits until `/livez` is answered like this.
    async fn until(&self, address: SocketAddr, expected: impl Fn(&Result<u16, String>) -> bool) {
        let start = Instant::now();
        loop {
            let answer = self.livez(address, "localhost").await;
            if expected(&answer) {
                return;
            }
            assert!(start.elapsed() < WAIT_MAX, "{answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[cfg(unix)]
fn private(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o640)).unwrap();
}

struct Server {
    encrypted: SocketAddr,
    plain: SocketAddr,
    _stop: oneshot::Sender<()>,
    fleet: TestFleet,
    tributary: Tributary,
}

/// A server with 100 posts of author 4, of about 1 MiB in all, and reader 1.
async fn serve(authority: &Authority) -> Server {
    let mut world = World::default();
    for n in 0..100 {
        world.post(4, i64::try_from(n).unwrap(), n);
        world.posts.last_mut().unwrap().content = "x".repeat(9_000);
    }
    world.follow(1, 4);
    let fleet = TestFleet::new(Backend::Sqlite, Tables::Ours).await.unwrap();
    fleet.load(&world).await;
    let tributary = Tributary::open(&fleet.config_with_memory(32 << 20)).await.unwrap();
    let any = "127.0.0.1:0".parse().unwrap();
    let bound = bind_with(any, RouterOptions::default()).await.unwrap();
    let bound = bound.with_tls(Certificate::open(&authority.files()).unwrap());
    let encrypted = bound.address();
    let (bound, plain) = bound.with_plain(any).await.unwrap();
    let bound = bound.with_admin_routes();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(bound.serve(tributary.clone(), async move { drop(stopped.await) }));
    Server { encrypted, plain, _stop: stop, fleet, tributary }
}

#[test]
fn wrong_certificates_versions_and_plain_http_are_refused_with_the_reason() {
    let authority = Authority::new();
    authority.issue(2100);
    run(async {
        let server = serve(&authority).await;
        let address = server.encrypted;
        assert_eq!(authority.livez(address, "localhost").await, Ok(200));
        let wrong_host = authority.livez(address, "feeds.example").await.unwrap_err();
        assert!(wrong_host.contains("not valid for name"), "{wrong_host}");
        let stranger = Authority::new().livez(address, "localhost").await.unwrap_err();
        assert!(stranger.contains("UnknownIssuer"), "{stranger}");

        let plain = exchange(address, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let plain = String::from_utf8_lossy(&plain).into_owned();
        assert!(plain.starts_with("HTTP/1.1 400") && plain.contains("TLS only"), "{plain}");
        let alert = exchange(address, &hello_of_tls_1_1()).await;
        assert_eq!(alert[0], 21, "an alert: {alert:?}");
        assert_eq!(alert[5..], [2, 70], "fatal, protocol_version");
        // A handshake message of an unknown type.
        let garbage = exchange(address, &[0x16, 3, 1, 0, 4, 99, 0, 0, 0]).await;
        assert_eq!(garbage.first(), Some(&21), "an alert: {garbage:?}");

        let head = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let beside = exchange(server.plain, head.as_bytes()).await;
        assert!(beside.starts_with(b"HTTP/1.1 200"));
        let metrics = exchange(server.plain, head.replace("livez", "metrics").as_bytes()).await;
        let metrics = String::from_utf8(metrics).unwrap();
        // 2100-01-01.
        let expiry = "tributary_certificate_expiry_timestamp_seconds 4102444800\n";
        assert!(metrics.contains(expiry), "{metrics}");

        // Files that cannot be used leave the earlier certificate in effect.
        let HttpTls { certificate, key, .. } = authority.files();
        let first = fs::read(&certificate).unwrap();
        fs::write(&certificate, "damaged").unwrap();
        let error = Certificate::open(&authority.files()).unwrap_err().to_string();
        assert!(error.contains("certificate.pem: not 1 to 10 certificates"), "{error}");
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(authority.livez(address, "localhost").await, Ok(200));
        authority.issue(2010);
        authority
            .until(address, |answer| {
                answer.as_ref().is_err_and(|error| error.contains("certificate expired"))
            })
            .await;
        authority.issue(2100);
        authority.until(address, |answer| *answer == Ok(200)).await;

        fs::write(&certificate, first).unwrap();
        let error = Certificate::open(&authority.files()).unwrap_err().to_string();
        assert!(error.contains("does not fit to the key"), "{error}");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
            let error = Certificate::open(&authority.files()).unwrap_err().to_string();
            assert!(error.contains("chmod 640"), "{error}");
        }
    });
}

/// Sends bytes and returns the whole answer.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let bytes = bytes.to_vec();
    tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        std::io::Write::write_all(&mut stream, &bytes).unwrap();
        let mut answer = Vec::new();
        // A connection that is reset after the answer is an error.
        let _ = stream.read_to_end(&mut answer);
        answer
    })
    .await
    .unwrap()
}

/// The first message of a client that knows no version above TLS 1.1.
fn hello_of_tls_1_1() -> Vec<u8> {
    let mut body = vec![3, 2];
    body.extend([7; 32]);
    // No session, one cipher suite, no compression, and one extension: signature algorithms.
    body.extend([0, 0, 2, 0xc0, 0x13, 1, 0, 0, 8, 0, 13, 0, 4, 0, 2, 4, 3]);
    let length = u8::try_from(body.len()).unwrap();
    let mut record = vec![0x16, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(body);
    record
}

#[test]
fn http2_is_served_over_tls_within_bounds() {
    let authority = Authority::new();
    authority.issue(2100);
    run(async {
        let server = serve(&authority).await;
        let address = server.encrypted;
        let silent = tokio::spawn(closed_after(TcpStream::connect(address).await.unwrap()));
        let mut idle = authority.connect(address, "localhost", b"h2").await.unwrap();
        let settings = settings_of(&mut idle).await;
        assert!(settings.contains(&(3, 100)), "streams: {settings:?}");
        assert!(settings.contains(&(6, 16 * 1024)), "bytes of a head: {settings:?}");
        let idle = tokio::spawn(closed_after(idle));
        let mute = authority.connect(address, "localhost", b"h2").await.unwrap();
        let mute = tokio::spawn(closed_after(mute));
        let unread =
            tokio::spawn(unread(authority.connect(address, "localhost", b"http/1.1").await));

        let stream = authority.connect(address, "localhost", b"h2").await.unwrap();
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .unwrap();
        let connection = tokio::spawn(connection);
        let get = async |path: &str, headers: usize| -> Response<Bytes> {
            let mut request = Request::get(format!("https://localhost{path}"));
            for n in 0..headers {
                request = request.header(format!("x-{n}"), "1");
            }
            let request = request.body(Empty::<Bytes>::new()).unwrap();
            let (head, body) = sender.clone().send_request(request).await.unwrap().into_parts();
            Response::from_parts(head, body.collect().await.unwrap().to_bytes())
        };
        // 30 MB in all, several answers at a time.
        for _ in 0..5 {
            let path = "/v1/users/1/feed?limit=100";
            let pages = [(); 6].map(|()| get(path, 0));
            for page in futures_util::future::join_all(pages).await {
                assert_eq!((page.status().as_u16(), page.version()), (200, Version::HTTP_2));
                let page: serde_json::Value = serde_json::from_slice(page.body()).unwrap();
                assert!(page["posts"].as_array().unwrap().len() > 90);
            }
        }
        assert_eq!(get("/livez", 99).await.status(), 200);
        let many = get("/livez", 101).await;
        assert_eq!(many.status(), 431, "{:?}", many.body());
        drop(sender);
        drop(connection);

        // Time limits of a handshake, of an idle connection, and of an answer that is not read.
        assert!(silent.await.unwrap() < WAIT_MAX);
        assert!(idle.await.unwrap() < WAIT_MAX);
        assert!(mute.await.unwrap() < WAIT_MAX);
        assert!(unread.await.unwrap() < WAIT_MAX);
    });
}

#[test]
fn streams_of_events_are_served_over_tls() {
    let authority = Authority::new();
    authority.issue(2100);
    run(async {
        let server = serve(&authority).await;
        Watch::start(&server.tributary).await.until_heads_known().await;
        let path = path(user_id(1));
        let over_http1 = async |id: &str| {
            let socket = authority.connect(server.encrypted, "localhost", b"http/1.1").await;
            Stream::over(socket.unwrap(), &path, &[("last-event-id", id)]).await
        };
        let over_http2 = async |id: &str| {
            let socket = authority.connect(server.encrypted, "localhost", b"h2").await.unwrap();
            let http2 = hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>;
            let (mut sender, connection) =
                http2(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
            let connection = tokio::spawn(async move { drop(connection.await) });
            let request = Request::get(format!("https://localhost{path}"));
            let request = request.header("last-event-id", id).body(Empty::new()).unwrap();
            Stream::of(sender.send_request(request).await.unwrap(), connection)
        };
        let mut first = over_http1("").await;
        assert_eq!(first.head.status, 200);
        let mut id = first.next().await.unwrap().id;
        // Each post is read on another connection, which continues after the earlier one.
        for post in 1_000..1_006 {
            let sql = format!(
                "INSERT INTO D.tweets (tweet_id, user_id, content, timestamp) \
                 VALUES ({post}, 4, 'over TLS', {post})"
            );
            execute(&server.fleet, 4 % SHARDS, vec![sql], Duration::ZERO).await;
            let mut stream = match post % 2 {
                0 => over_http1(&id).await,
                _ => over_http2(&id).await,
            };
            let event = stream.event().await;
            assert_eq!(event.name, "post", "{event:?}");
            assert_eq!(event.json()["post"]["post_id"], post.to_string());
            id = event.id;
            assert_eq!(first.event().await.json()["post"]["post_id"], post.to_string());
        }
    });
}

/// The settings that the server sends first, by number.
async fn settings_of(stream: &mut TlsStream<TcpStream>) -> Vec<(u16, u32)> {
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "a SETTINGS frame");
    let mut body = vec![0; usize::from(head[1]) * 256 + usize::from(head[2])];
    stream.read_exact(&mut body).await.unwrap();
    let setting = |six: &[u8]| {
        let value = u32::from_be_bytes([six[2], six[3], six[4], six[5]]);
        (u16::from_be_bytes([six[0], six[1]]), value)
    };
    body.chunks(6).map(setting).collect()
}

/// Sends nothing, and returns after which time the server has closed the connection.
async fn closed_after(mut stream: impl tokio::io::AsyncRead + Unpin) -> Duration {
    let start = Instant::now();
    let mut received = Vec::new();
    let _ = tokio::time::timeout(WAIT_MAX, stream.read_to_end(&mut received)).await;
    start.elapsed()
}

/// Requests many pages, reads none, and returns after which time the connection is closed.
async fn unread(stream: Result<TlsStream<TcpStream>, String>) -> Duration {
    let mut stream = stream.unwrap();
    let start = Instant::now();
    let request = b"GET /v1/users/4/posts?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    while start.elapsed() < WAIT_MAX {
        let write = stream.write_all(request);
        match tokio::time::timeout(Duration::from_millis(500), write).await {
            Ok(Err(_)) => break,
            Ok(Ok(())) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    start.elapsed()
}
