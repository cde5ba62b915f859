//! A TCP proxy in front of a server that can delay, throttle, stall, cut or refuse connections,
//! redirect new ones to another server, and hold up the streams of logs.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// The commands that start a stream of a log: by position, and by GTIDs.
const DUMPS: [u8; 2] = [0x12, 0x1e];
/// Pause between two chunks on a throttled link.
const TICK: Duration = Duration::from_millis(20);

/// A link on a port of its own; it runs until the runtime ends.
pub(crate) struct Link {
    pub(crate) port: u16,
    state: watch::Sender<LinkState>,
    clients: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct LinkState {
    /// The port of the server.
    target: u16,
    /// Added latency in each direction.
    delay: Duration,
    /// Bandwidth in each direction; `None` is unlimited.
    bytes_per_second: Option<usize>,
    refusing: bool,
    stalled: bool,
    /// Streams of logs get nothing from the server. Other connections work.
    holds_logs: bool,
    /// How often `cut` or `refuse` closed all connections.
    cuts: usize,
    /// How often the link stalled. Connections that were open at that time stay dead, as if a
    /// firewall had dropped their state.
    stalls: usize,
}

impl Link {
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = LinkState {
            target,
            delay: Duration::ZERO,
            bytes_per_second: None,
            refusing: false,
            stalled: false,
            holds_logs: false,
            cuts: 0,
            stalls: 0,
        };
        let (state, seen) = watch::channel(state);
        let clients = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&clients);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                if seen.borrow().refusing {
                    continue;
                }
                let (seen, count) = (seen.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    count.fetch_add(1, Ordering::Relaxed);
                    drop(forward(client, seen).await);
                    count.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Self { port, state, clients }
    }

    /// Adds this latency in each direction.
    pub(crate) fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// Limits the bandwidth in each direction, in bytes a second.
    pub(crate) fn throttle(&self, bytes_per_second: Option<usize>) {
        self.state.send_modify(|state| state.bytes_per_second = bytes_per_second);
    }

    /// Stalls all open connections for the rest of their lives. New ones are accepted, but forward
    /// nothing.
    pub(crate) fn stall(&self) {
        self.state.send_modify(|state| {
            state.stalled = true;
            state.stalls += 1;
        });
    }

    /// Holds up the streams of logs, or lets them continue.
    pub(crate) fn hold_logs(&self, holds: bool) {
        self.state.send_modify(|state| state.holds_logs = holds);
    }

    /// Closes all connections; new ones work.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Closes all connections, and each new one at once.
    pub(crate) fn refuse(&self) {
        self.state.send_modify(|state| {
            state.refusing = true;
            state.cuts += 1;
        });
    }

    /// New connections work, without delay or limit.
    pub(crate) fn restore(&self) {
        self.state.send_modify(|state| {
            state.refusing = false;
            state.stalled = false;
            state.delay = Duration::ZERO;
            state.bytes_per_second = None;
        });
    }

    /// New connections go to another server; open ones keep theirs.
    pub(crate) fn redirect_to(&self, target: u16) {
        self.state.send_modify(|state| state.target = target);
    }

    /// The number of open client connections.
    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }
}

async fn forward(mut client: TcpStream, mut seen: watch::Receiver<LinkState>) -> io::Result<()> {
    let LinkState { cuts, stalls, stalled, target, .. } = *seen.borrow();
    let until_cut = {
        let mut seen = seen.clone();
        async move { drop(seen.wait_for(|state| state.cuts != cuts).await) }
    };
    let speed = seen.clone();
    let until_stalled = async { drop(seen.wait_for(|state| state.stalls != stalls).await) };
    let work = async {
        if !stalled {
            let server = TcpStream::connect(("127.0.0.1", target)).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.into_split();
            let is_log = AtomicBool::new(false);
            tokio::select! {
                ended = pump(from_client, to_server, &speed, &is_log, false) => return ended,
                ended = pump(from_server, to_client, &speed, &is_log, true) => return ended,
                () = until_stalled => {}
            }
        }
        // Reads on, to see when the client closes.
        let mut discarded = [0; 4_096];
        while client.read(&mut discarded).await? > 0 {}
        Ok(())
    };
    tokio::select! {
        ended = work => ended,
        () = until_cut => Ok(()),
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    state: &watch::Receiver<LinkState>,
    is_log: &AtomicBool,
    from_server: bool,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if !from_server && count > 4 && buffer[3] == 0 && DUMPS.contains(&buffer[4]) {
            is_log.store(true, Ordering::Relaxed);
        }
        if from_server && is_log.load(Ordering::Relaxed) {
            drop(state.clone().wait_for(|state| !state.holds_logs).await);
        }
        let LinkState { delay, bytes_per_second, .. } = *state.borrow();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let Some(bytes_per_second) = bytes_per_second else {
            to.write_all(&buffer[..count]).await?;
            continue;
        };
        let chunk = (bytes_per_second / 50).max(1);
        for bytes in buffer[..count].chunks(chunk) {
            to.write_all(bytes).await?;
            sleep(TICK).await;
        }
    }
}
