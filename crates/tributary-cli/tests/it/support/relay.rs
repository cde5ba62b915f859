//! A relay in front of database servers that reads the packets, as a proxy for MySQL does. It can
//! change the greeting, refuse commands, and spread connections over several servers.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

/// The commands that a replica sends: register, and two forms of the request for the log.
const LOG_COMMANDS: [u8; 3] = [0x15, 0x12, 0x1e];
const QUERY: u8 = 0x03;
const PREPARE: u8 = 0x16;
const EXECUTE: u8 = 0x17;

/// The changes that a relay makes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rules {
    /// The version in the greeting.
    pub(crate) version: Option<&'static str>,
    /// Answers requests for the log with error 1047.
    pub(crate) refuses_log: bool,
    /// Answers `SET` with error 1064.
    pub(crate) refuses_set: bool,
    /// Answers every execution of a prepared statement with error 1615.
    pub(crate) rejects_prepared: bool,
    /// Answers statements with `JSON_TABLE` with error 1064, as old servers do.
    pub(crate) knows_no_json_table: bool,
    /// Cuts off an event in each of the first [`CUTS`] logs.
    pub(crate) cuts_events: bool,
}

/// The number of logs in which an event is cut off.
pub(crate) const CUTS: usize = 3;
/// The rotate event, the format event and the event after them precede it.
const CUT_AT: usize = 3;
/// The zero byte before an event, its header, and a part of its body that is too short for a
/// checksum.
const CUT_BYTES: usize = 1 + 19 + 2;

/// A relay on a port of its own; it runs until the runtime ends.
pub(crate) struct Relay {
    pub(crate) port: u16,
}

impl Relay {
    /// Successive connections go to these servers in turn.
    pub(crate) async fn start(targets: &[u16], rules: Rules) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (targets, next) = (targets.to_vec(), AtomicUsize::new(0));
        let logs = Arc::new(AtomicUsize::new(0));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let target = targets[next.fetch_add(1, Ordering::Relaxed) % targets.len()];
                let logs = Arc::clone(&logs);
                tokio::spawn(async move { drop(forward(client, target, rules, logs).await) });
            }
        });
        Self { port }
    }
}

async fn forward(
    client: TcpStream,
    target: u16,
    rules: Rules,
    logs: Arc<AtomicUsize>,
) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (mut from_server, to_server) = server.into_split();
    let mut greeting = packet(&mut from_server).await?;
    if let Some(version) = rules.version {
        greeting = with_version(&greeting, version);
    }
    let to_client = Arc::new(Mutex::new(to_client));
    to_client.lock().await.write_all(&greeting).await?;
    let answers = Arc::clone(&to_client);
    let sends_log = AtomicBool::new(false);
    let answer = async {
        match rules.cuts_events {
            true => pump_packets(from_server, to_client, &sends_log, &logs).await,
            false => pump(from_server, to_client).await,
        }
    };
    tokio::select! {
        ended = commands(from_client, to_server, answers, rules, &sends_log) => ended,
        ended = answer => ended,
    }
}

/// Forwards the client's packets, except the commands that are refused.
async fn commands(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    answers: Arc<Mutex<OwnedWriteHalf>>,
    rules: Rules,
    sends_log: &AtomicBool,
) -> io::Result<()> {
    loop {
        let packet = packet(&mut from).await?;
        if LOG_COMMANDS[1..].contains(&packet[4]) {
            sends_log.store(true, Ordering::Relaxed);
        }
        match refusal(&packet, rules) {
            Some(code) => answers.lock().await.write_all(&error(code)).await?,
            None => to.write_all(&packet).await?,
        }
    }
}

/// The error code with which this packet is refused.
fn refusal(packet: &[u8], rules: Rules) -> Option<u16> {
    let [_, _, _, 0, command, text @ ..] = packet else { return None };
    if rules.refuses_log && LOG_COMMANDS.contains(command) {
        return Some(1047);
    }
    if rules.rejects_prepared && *command == EXECUTE {
        return Some(1615);
    }
    if rules.knows_no_json_table && [QUERY, PREPARE].contains(command) {
        let word = b"JSON_TABLE";
        return text.windows(word.len()).any(|part| part == word).then_some(1064);
    }
    (rules.refuses_set && *command == QUERY && text.starts_with(b"SET ")).then_some(1064)
}

fn error(code: u16) -> Vec<u8> {
    let mut body = vec![0xff];
    body.extend(code.to_le_bytes());
    body.extend(b"#42000the relay refuses this");
    framed(1, &body)
}

/// The greeting with another version. It follows the protocol number and ends with a zero.
fn with_version(greeting: &[u8], version: &str) -> Vec<u8> {
    let body = &greeting[4..];
    let end = 1 + body[1..].iter().position(|byte| *byte == 0).unwrap();
    let changed = [&body[..1], version.as_bytes(), &body[end..]].concat();
    framed(0, &changed)
}

fn framed(sequence: u8, body: &[u8]) -> Vec<u8> {
    let [a, b, c, _] = u32::try_from(body.len()).unwrap().to_le_bytes();
    [&[a, b, c, sequence], body].concat()
}

/// One packet with its header.
async fn packet(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut packet = vec![0; 4];
    from.read_exact(&mut packet).await?;
    let length = u32::from_le_bytes([packet[0], packet[1], packet[2], 0]) as usize;
    packet.resize(4 + length, 0);
    from.read_exact(&mut packet[4..]).await?;
    Ok(packet)
}

async fn pump(mut from: OwnedReadHalf, to: Arc<Mutex<OwnedWriteHalf>>) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        to.lock().await.write_all(&buffer[..count]).await?;
    }
}

/// Forwards the packets of a server, and cuts off one event of its log.
async fn pump_packets(
    mut from: OwnedReadHalf,
    to: Arc<Mutex<OwnedWriteHalf>>,
    sends_log: &AtomicBool,
    logs: &AtomicUsize,
) -> io::Result<()> {
    let mut events = 0;
    loop {
        let mut packet = packet(&mut from).await?;
        if sends_log.load(Ordering::Relaxed) {
            events += 1;
        }
        if events == CUT_AT && logs.fetch_add(1, Ordering::Relaxed) < CUTS {
            packet = framed(packet[3], &packet[4..4 + CUT_BYTES]);
        }
        to.lock().await.write_all(&packet).await?;
    }
}
