//! A proxy in front of a database server that breaks connections at a COMMIT: before the server
//! gets it, after the server has run it, or by dropping all further packets.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A COMMIT as the client sends it: length, sequence, command, text.
const COMMIT: &[u8] = b"\x07\0\0\0\x03COMMIT";

/// The fate of one COMMIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The proxy closes both connections; the server never gets the COMMIT.
    CutBefore,
    /// The server commits and answers; the proxy drops the answer and closes both connections.
    CutAfter,
    /// The proxy closes the client's connection at once; the server gets the COMMIT 400 ms later.
    CutThenCommit,
    /// The proxy closes the client's connection at once, and the server's 400 ms later; the server
    /// never gets the COMMIT.
    CutThenLost,
    /// The server commits; the client's connection stays open for 60 s, but no answer arrives.
    Silence,
}

pub(crate) const FATES: [Fate; 5] =
    [Fate::CutBefore, Fate::CutAfter, Fate::CutThenCommit, Fate::CutThenLost, Fate::Silence];

/// A proxy on a port of its own; it runs until the runtime ends.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    server: AtomicU16,
    fates: Mutex<VecDeque<Fate>>,
    refusing: AtomicBool,
    /// After the next commit with a fate, the proxy closes all connections and refuses new ones.
    refuse_next: AtomicBool,
    /// Closes all connections.
    cut: Notify,
    commits: AtomicUsize,
}

impl Proxy {
    pub(crate) async fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(ProxyState::default());
        state.server.store(server, Ordering::Relaxed);
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if !shared.refusing.load(Ordering::SeqCst) {
                    tokio::spawn(forward(client, Arc::clone(&shared)));
                }
            }
        });
        Self { port, state }
    }

    /// Queues a fate for the next COMMIT that has none yet.
    pub(crate) fn fail_next_commit(&self, fate: Fate) {
        self.state.fates.lock().unwrap().push_back(fate);
    }

    /// The same, and the server is unreachable after that commit until `accept_again`.
    pub(crate) fn fail_next_commit_then_refuse(&self, fate: Fate) {
        self.state.refuse_next.store(true, Ordering::SeqCst);
        self.fail_next_commit(fate);
    }

    pub(crate) fn accept_again(&self) {
        self.state.refusing.store(false, Ordering::SeqCst);
    }

    /// COMMITs since the last call.
    pub(crate) fn commits(&self) -> usize {
        self.state.commits.swap(0, Ordering::SeqCst)
    }
}

async fn forward(mut client: TcpStream, state: Arc<ProxyState>) {
    let port = state.server.load(Ordering::Relaxed);
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            () = state.cut.notified() => return,
            read = client.read(&mut up) => {
                let Ok(count @ 1..) = read else { return };
                let bytes = &up[..count];
                if bytes.windows(COMMIT.len()).any(|window| window == COMMIT) {
                    state.commits.fetch_add(1, Ordering::SeqCst);
                    let fate = state.fates.lock().unwrap().pop_front();
                    if let Some(fate) = fate {
                        if state.refuse_next.swap(false, Ordering::SeqCst) {
                            state.refusing.store(true, Ordering::SeqCst);
                            state.cut.notify_waiters();
                        }
                        return apply_fate(fate, client, server, bytes).await;
                    }
                }
                if server.write_all(bytes).await.is_err() { return }
            }
            read = server.read(&mut down) => {
                let Ok(count @ 1..) = read else { return };
                if client.write_all(&down[..count]).await.is_err() { return }
            }
        }
    }
}

async fn apply_fate(fate: Fate, client: TcpStream, mut server: TcpStream, commit: &[u8]) {
    let mut answer = [0; 1024];
    match fate {
        Fate::CutBefore => {}
        Fate::CutAfter => {
            server.write_all(commit).await.unwrap();
            assert!(server.read(&mut answer).await.unwrap() > 0);
        }
        Fate::CutThenCommit | Fate::CutThenLost => {
            drop(client);
            tokio::time::sleep(Duration::from_millis(400)).await;
            if fate == Fate::CutThenCommit {
                server.write_all(commit).await.unwrap();
                assert!(server.read(&mut answer).await.unwrap() > 0);
            }
        }
        Fate::Silence => {
            server.write_all(commit).await.unwrap();
            assert!(server.read(&mut answer).await.unwrap() > 0);
            tokio::time::sleep(Duration::from_secs(60)).await;
            drop(client);
        }
    }
}
