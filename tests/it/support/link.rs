//! A TCP link before a server that can be slow, half-open, cut or refused, and can lead elsewhere.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// Between two pieces of what a narrow link carries.
const TICK: Duration = Duration::from_millis(20);

/// A link on a port of its own; it ends with the runtime.
pub(crate) struct Link {
    pub(crate) port: u16,
    state: watch::Sender<LinkState>,
    open: Arc<AtomicUsize>,
}

#[derive(Clone, Copy)]
struct LinkState {
    /// The port of the server.
    target: u16,
    /// How long everything takes, each way.
    delay: Duration,
    /// What goes through each way.
    bytes_per_second: Option<usize>,
    refusing: bool,
    silent: bool,
    /// How often all connections were cut.
    cuts: usize,
    /// How often the link fell silent. What was connected then stays dead, as behind a firewall
    /// that forgot its connections.
    silences: usize,
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
            silent: false,
            cuts: 0,
            silences: 0,
        };
        let (state, seen) = watch::channel(state);
        let open = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&open);
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
        Self { port, state, open }
    }

    /// Everything takes this much longer, each way.
    pub(crate) fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    pub(crate) fn throttle(&self, bytes_per_second: Option<usize>) {
        self.state.send_modify(|state| state.bytes_per_second = bytes_per_second);
    }

    /// Accepts connections and carries nothing.
    pub(crate) fn silence(&self) {
        self.state.send_modify(|state| {
            state.silent = true;
            state.silences += 1;
        });
    }

    /// Ends all connections; new ones are carried.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Ends all connections, and each new one at once.
    pub(crate) fn refuse(&self) {
        self.state.send_modify(|state| {
            state.refusing = true;
            state.cuts += 1;
        });
    }

    /// New connections are carried, as fast as they come.
    pub(crate) fn restore(&self) {
        self.state.send_modify(|state| {
            state.refusing = false;
            state.silent = false;
            state.delay = Duration::ZERO;
            state.bytes_per_second = None;
        });
    }

    /// New connections lead to another server; the old ones go on.
    pub(crate) fn redirect_to(&self, target: u16) {
        self.state.send_modify(|state| state.target = target);
    }

    /// Connections that clients hold.
    pub(crate) fn clients(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

async fn forward(mut client: TcpStream, mut seen: watch::Receiver<LinkState>) -> io::Result<()> {
    let LinkState { cuts, silences, silent, target, .. } = *seen.borrow();
    let until_cut = {
        let mut seen = seen.clone();
        async move { drop(seen.wait_for(|state| state.cuts != cuts).await) }
    };
    let speed = seen.clone();
    let until_silent = async { drop(seen.wait_for(|state| state.silences != silences).await) };
    let work = async {
        if !silent {
            let server = TcpStream::connect(("127.0.0.1", target)).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                ended = pump(from_client, to_server, &speed) => return ended,
                ended = pump(from_server, to_client, &speed) => return ended,
                () = until_silent => {}
            }
        }
        // Hears the client, if only that it leaves.
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
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        let LinkState { delay, bytes_per_second, .. } = *state.borrow();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        let Some(bytes_per_second) = bytes_per_second else {
            to.write_all(&buffer[..count]).await?;
            continue;
        };
        let piece = (bytes_per_second / 50).max(1);
        for bytes in buffer[..count].chunks(piece) {
            to.write_all(bytes).await?;
            sleep(TICK).await;
        }
    }
}
