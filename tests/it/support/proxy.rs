//! A proxy before a database server that does to commits what networks do: it cuts the connection
//! before them, after them, or says nothing more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// A COMMIT as the client sends it: length, sequence, command, text.
const COMMIT: &[u8] = b"\x07\0\0\0\x03COMMIT";

/// What becomes of one commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The connection is cut before the server hears of it.
    CutBefore,
    /// The connection is cut once the server has answered; the answer is lost.
    CutAfter,
    /// The client is cut off at once; the server hears of the commit after a while.
    CutThenCommit,
    /// The client is cut off at once; the server hears after a while that the client is gone.
    CutThenLost,
    /// The server commits, and nothing more is heard on this connection.
    Silence,
}

pub(crate) const FATES: [Fate; 5] =
    [Fate::CutBefore, Fate::CutAfter, Fate::CutThenCommit, Fate::CutThenLost, Fate::Silence];

/// A proxy on a port of its own; it ends with the runtime.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<ProxyState>,
}

#[derive(Default)]
struct ProxyState {
    server: AtomicU16,
    fates: Mutex<VecDeque<Fate>>,
    refusing: AtomicBool,
    /// After the next commit with a fate, new connections are refused.
    refuse_next: AtomicBool,
    /// Ends all connections.
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

    /// The next commit meets this fate.
    pub(crate) fn fail_next_commit(&self, fate: Fate) {
        self.state.fates.lock().unwrap().push_back(fate);
    }

    /// The next commit meets this fate, and then the server cannot be reached.
    pub(crate) fn fail_next_commit_then_refuse(&self, fate: Fate) {
        self.state.refuse_next.store(true, Ordering::SeqCst);
        self.fail_next_commit(fate);
    }

    pub(crate) fn accept_again(&self) {
        self.state.refusing.store(false, Ordering::SeqCst);
    }

    /// Commits that were seen since this was last asked.
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
