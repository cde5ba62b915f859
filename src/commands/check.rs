//! `tributary check`: looks at servers, and says how to serve them and what to mend first.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use url::Url;

use super::{Outcome, say};
use crate::config::{Config, ConfigError, FleetConfig, Servers, environment, password_variable};
use crate::fit::{Fit, fit, strays};
use crate::mapping::{Mark, Tables};
use crate::model::UserId;
use crate::moment::Zone;
use crate::shard::{self, Finding, Level};

#[derive(Args, Debug)]
#[command(
    after_help = "Give one DSN for each shard, mysql://user@host:3306/database, in the order that \
    `user_id % N` counts in, if you know it. Nothing is written to the servers, and an account \
    that may only read is enough. The configuration is printed to standard output and all else to \
    standard error, so that `tributary check DSN DSN > tributary.toml` gives a file to serve with. \
    Passwords: in \
    TRIBUTARY_SERVERS__DB0__PASSWORD and so on for the servers in the order they are first named, \
    in --password-file, or in the DSN. Exit codes: 0 it can be served, 3 something must be mended \
    first."
)]
pub(super) struct Check {
    /// A shard: mysql://user@host:3306/database
    #[arg(value_name = "DSN", required_unless_present = "config", conflicts_with = "config")]
    dsns: Vec<String>,
    /// Check the fleet of this configuration instead
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the password of all the servers
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    password_file: Option<PathBuf>,
    /// Where the dates of DATETIME columns belong: UTC, +02:00, Europe/Berlin
    #[arg(long, conflicts_with = "config")]
    zone: Option<Zone>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Users of a shard that leave no doubt.
const USERS_ENOUGH: usize = 8;

/// What a check found.
#[derive(Default)]
struct CheckReport {
    findings: Vec<(String, Finding)>,
    /// The configuration to serve with, if one could be made.
    configuration: Option<String>,
    /// How the rows are spread, in words.
    placement: Option<String>,
}

impl Check {
    pub(super) async fn run(self) -> Result<Outcome> {
        let report = match &self.config {
            Some(file) => {
                let config = Config::from_file(file, environment())?;
                let FleetConfig::Servers(servers) = &config.fleet else {
                    bail!("a folder of embedded shards needs no check; `tributary serve` makes it");
                };
                check_fleet(&config, servers).await?
            }
            None => self.check_dsns().await?,
        };
        if self.json {
            say(report.json());
        } else {
            eprint(&report.readable());
            if let Some(text) = &report.configuration {
                say(text.trim_end());
            }
        }
        Ok(if report.is_ready() { Outcome::Done } else { Outcome::NotReady })
    }

    /// Finds out all that a configuration says.
    async fn check_dsns(&self) -> Result<CheckReport> {
        let draft = ConfigDraft::new(&self.dsns, self.password_file.as_ref())?;
        let config = draft.config(&Tables::default(), &ShardOrder::given(self.dsns.len()))?;
        let FleetConfig::Servers(servers) = &config.fleet else { bail!("no servers were named") };
        let (tables, mut findings) = shard::find_tables(servers, self.zone.as_ref()).await;
        let Some(tables) = tables else {
            return Ok(CheckReport { findings, ..CheckReport::default() });
        };

        let servers = Servers { tables: tables.clone(), ..Servers::clone(servers) };
        let survey = shard::survey(&servers, &config.write).await;
        // What could not be reached is told once.
        let known: Vec<_> = findings.iter().map(|(place, f)| (place.clone(), f.code)).collect();
        let is_new = |(place, f): &(String, Finding)| !known.contains(&(place.clone(), f.code));
        findings.extend(survey.findings.into_iter().filter(is_new));
        let (mut known_rule, place) = (true, || "the fleet".to_owned());
        let order = match fit(&survey.samples) {
            Fit::Modulo(order) => ShardOrder { shards: order, map: None },
            Fit::Map(map) => {
                let map = map.iter().map(|shard| shard.index()).collect();
                ShardOrder { map: Some(map), ..ShardOrder::given(self.dsns.len()) }
            }
            Fit::Unknown => {
                known_rule = false;
                findings.push((place(), unknown_placement(self.dsns.len())));
                ShardOrder::given(self.dsns.len())
            }
        };
        let in_order: Vec<Vec<UserId>> =
            order.shards.iter().map(|index| survey.samples[*index].clone()).collect();
        let config = draft.config(&tables, &order)?;
        let FleetConfig::Servers(servers) = &config.fleet else { bail!("no servers were named") };
        let mut placement = None;
        if known_rule {
            findings.extend(stray_findings(&config, servers, &in_order)?);
            findings.extend(doubts(&in_order).into_iter().map(|doubt| (place(), doubt)));
            placement = Some(placement_words(&order, &in_order));
        }
        let head = placement.as_ref().map_or(String::new(), |words| format!("# {words}\n\n"));
        let configuration = Some(format!("{head}{}", draft.text(&tables, &order)));
        Ok(CheckReport { findings, configuration, placement })
    }
}

/// Why an order of shards that fits may not be the right one.
fn doubts(samples: &[Vec<UserId>]) -> Option<Finding> {
    let unseen = samples.iter().filter(|sample| sample.is_empty()).count();
    let fewest = samples.iter().map(Vec::len).min().unwrap_or(0);
    if samples.len() < 2 || fewest >= USERS_ENOUGH {
        return None;
    }
    let text = match unseen {
        0 => format!("only {fewest} users were seen on one of the shards: the order is a guess"),
        unseen => format!("no user was seen on {unseen} of the shards: their order is a guess"),
    };
    let cure =
        "a look at it: the shards in the order that user_id % N counts in, and check --config";
    Some(Finding::warning("few_users", text).cure(cure))
}

async fn check_fleet(config: &Config, servers: &Servers) -> Result<CheckReport> {
    let survey = shard::survey(servers, &config.write).await;
    let mut findings = survey.findings;
    let strays = stray_findings(config, servers, &survey.samples)?;
    match fit(&survey.samples) {
        _ if strays.is_empty() => {}
        Fit::Modulo(order) if config.placement.map.is_none() => {
            let names: Vec<&str> = order.iter().map(|i| servers.shards[*i].name.as_str()).collect();
            if order.is_sorted() {
                findings.extend(strays);
            } else {
                let finding = Finding::error(
                    "wrong_order",
                    "the shards stand in another order than the rows were spread by",
                );
                let cure = format!("[[shards]] in this order: {}", names.join(", "));
                findings.push(("the fleet".into(), finding.cure(cure)));
            }
        }
        Fit::Map(map) => {
            let names: Vec<&str> =
                map.iter().map(|shard| servers.shards[shard.index()].name.as_str()).collect();
            let finding =
                Finding::error("wrong_placement", "the rows were not spread by this placement");
            let cure = format!("placement.map = {}", quoted_list(&names));
            findings.push(("the fleet".into(), finding.cure(cure)));
        }
        Fit::Modulo(_) => findings.extend(strays),
        Fit::Unknown => {
            findings.push(("the fleet".into(), unknown_placement(servers.shards.len())));
        }
    }
    Ok(CheckReport { findings, ..CheckReport::default() })
}

fn stray_findings(
    config: &Config,
    servers: &Servers,
    samples: &[Vec<UserId>],
) -> Result<Vec<(String, Finding)>> {
    let names: Vec<&str> = servers.shards.iter().map(|shard| shard.name.as_str()).collect();
    let placement = config.placement.build(&names)?;
    Ok(shard::strays(servers, &strays(&placement, samples), samples))
}

fn unknown_placement(shards: usize) -> Finding {
    let text = format!(
        "the rows are spread neither by `user_id % {shards}` nor by any larger number of buckets \
         that is a multiple of {shards}"
    );
    Finding::error("unknown_placement", text)
        .cure("all shards of the fleet, each once; other rules are not supported")
}

/// In which order the shards stand, and which of them owns which bucket.
struct ShardOrder {
    /// Indices into the DSNs.
    shards: Vec<usize>,
    /// Indices into `shards`.
    map: Option<Vec<usize>>,
}

impl ShardOrder {
    fn given(shards: usize) -> Self {
        Self { shards: (0..shards).collect(), map: None }
    }
}

fn placement_words(order: &ShardOrder, samples: &[Vec<UserId>]) -> String {
    let seen: usize = samples.iter().map(Vec::len).sum();
    match &order.map {
        Some(map) => {
            format!("{} buckets fit {seen} users that were looked at; see [placement].", map.len())
        }
        None if seen == 0 => "There are no rows yet: the shards stand as they were given.".into(),
        None => format!(
            "user_id % {} in this order of shards fits {seen} users that were looked at.",
            order.shards.len()
        ),
    }
}

/// A configuration in the making: servers and databases, in the order of the DSNs.
struct ConfigDraft {
    servers: Vec<ServerDraft>,
    /// Index of the server, and the database.
    shards: Vec<(usize, String)>,
    password_file: Option<PathBuf>,
}

struct ServerDraft {
    address: String,
    user: String,
    password: Option<String>,
    tls: Option<String>,
}

impl ConfigDraft {
    fn new(dsns: &[String], password_file: Option<&PathBuf>) -> Result<Self, ConfigError> {
        let password_file = password_file.cloned();
        let mut draft = Self { servers: Vec::new(), shards: Vec::new(), password_file };
        for dsn in dsns {
            let (server, database) = parse(dsn)?;
            let same = |s: &ServerDraft| s.address == server.address && s.user == server.user;
            let index = draft.servers.iter().position(same).unwrap_or_else(|| {
                draft.servers.push(server);
                draft.servers.len() - 1
            });
            draft.shards.push((index, database));
        }
        Ok(draft)
    }

    /// Reads the text as `serve` will read it.
    fn config(&self, tables: &Tables, order: &ShardOrder) -> Result<Config, ConfigError> {
        let mut variables = BTreeMap::new();
        for (index, server) in self.servers.iter().enumerate() {
            let name = password_variable(&format!("db{index}"));
            let password = server.password.clone().or_else(|| std::env::var(&name).ok());
            variables.extend(password.map(|password| (name, password)));
        }
        Config::from_text(&self.text(tables, order), variables)
    }

    fn text(&self, tables: &Tables, order: &ShardOrder) -> String {
        let mut text = String::new();
        for (index, server) in self.servers.iter().enumerate() {
            let name = format!("db{index}");
            let _ = writeln!(text, "[servers.{name}]\naddress = {}", quoted(&server.address));
            let _ = writeln!(text, "user = {}", quoted(&server.user));
            let _ = match &self.password_file {
                Some(path) => writeln!(text, "password_file = {}", quoted(&path.to_string_lossy())),
                None => {
                    writeln!(text, "# Its password: password_file, or {}", password_variable(&name))
                }
            };
            if let Some(tls) = &server.tls {
                let _ = writeln!(text, "tls = {}", quoted(tls));
            }
            text.push('\n');
        }
        for (place, index) in order.shards.iter().enumerate() {
            let (server, database) = &self.shards[*index];
            let _ = writeln!(
                text,
                "[[shards]]\nname = \"s{place}\"\nserver = \"db{server}\"\ndatabase = {}\n",
                quoted(database)
            );
        }
        if let Some(map) = &order.map {
            let names: Vec<String> = map.iter().map(|shard| format!("s{shard}")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let _ = writeln!(text, "[placement]\nmap = {}\n", quoted_list(&names));
        }
        text + &tables_text(tables)
    }
}

fn tables_text(tables: &Tables) -> String {
    let (follows, posts) = (&tables.follows, &tables.posts);
    let mut text = format!(
        "[tables.follows]\nname = {}\nfollower = {}\nfollowed = {}\n\n",
        quoted(&follows.name),
        quoted(&follows.follower),
        quoted(&follows.followed)
    );
    let _ = writeln!(
        text,
        "[tables.posts]\nname = {}\nid = {}\nauthor = {}\ncontent = {}\ntime = {}\nunit = \"{}\"",
        quoted(&posts.name),
        quoted(&posts.id),
        quoted(&posts.author),
        quoted(&posts.content),
        quoted(&posts.time),
        posts.unit
    );
    if !posts.zone.is_utc() {
        let _ = writeln!(text, "zone = \"{}\"", posts.zone);
    }
    if let Some(visible) = &posts.visible {
        let value = match &visible.value {
            Mark::Null => "\"NULL\"".to_owned(),
            Mark::Now => "\"NOW\"".to_owned(),
            Mark::Number(number) => number.to_string(),
            Mark::Text(text) => quoted(text),
        };
        let column = quoted(&visible.column);
        let _ = writeln!(text, "visible = {{ column = {column}, value = {value} }}");
    }
    if let Some(users) = &tables.users {
        let _ = writeln!(
            text,
            "\n[tables.users]\nname = {}\nid = {}\nhandle = {}",
            quoted(&users.name),
            quoted(&users.id),
            quoted(&users.handle)
        );
    }
    text
}

/// A text as a TOML string, whose escapes are JSON's.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn quoted_list(names: &[&str]) -> String {
    Value::from(names).to_string()
}

/// The server and the database of a DSN. It may hold a password, so it is never told.
fn parse(dsn: &str) -> Result<(ServerDraft, String), ConfigError> {
    let wrong = || {
        let text = "a DSN must be of the form mysql://user@host:3306/database, the special \
             characters of its parts percent-encoded";
        ConfigError::new(text)
    };
    let url = Url::parse(dsn).map_err(|_| wrong())?;
    let decoded = |text: &str| {
        percent_decode_str(text).decode_utf8().map(|text| text.into_owned()).map_err(|_| wrong())
    };
    let database = decoded(url.path().trim_start_matches('/'))?;
    let user = decoded(url.username())?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
    if !["mysql", "mariadb"].contains(&url.scheme()) || user.is_empty() || database.is_empty() {
        return Err(wrong());
    }
    let mut tls = None;
    for (key, value) in url.query_pairs() {
        match key.as_ref() {
            "tls" => tls = Some(value.into_owned()),
            other => {
                return Err(ConfigError::new(format!(
                    "a DSN takes the parameter tls, not {other}"
                )));
            }
        }
    }
    let address = format!("{host}:{}", url.port().unwrap_or(3306));
    let password = url.password().map(decoded).transpose()?;
    Ok((ServerDraft { address, user, password, tls }, database))
}

impl CheckReport {
    fn is_ready(&self) -> bool {
        self.findings.iter().all(|(_, finding)| finding.level < Level::Error)
    }

    /// Errors first.
    fn sorted(&self) -> Vec<&(String, Finding)> {
        let mut findings: Vec<_> = self.findings.iter().collect();
        findings.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.level));
        findings
    }

    fn readable(&self) -> String {
        let mut text = String::new();
        for (place, finding) in self.sorted() {
            let level = level_word(finding.level);
            let _ = writeln!(text, "{level}: {place}: {}", finding.text);
            if let Some(cure) = &finding.cure {
                let _ = writeln!(text, "    mend it with: {cure}");
            }
        }
        if let Some(placement) = &self.placement {
            let _ = writeln!(text, "{placement}");
        }
        text + if self.is_ready() {
            "It can be served.\n"
        } else {
            "It cannot be served rightly until the errors are mended.\n"
        }
    }

    fn json(&self) -> Value {
        let finding = |(place, finding): &&(String, Finding)| {
            json!({
                "level": level_word(finding.level),
                "code": finding.code,
                "place": place,
                "text": finding.text,
                "cure": finding.cure,
            })
        };
        json!({
            "ready": self.is_ready(),
            "findings": self.sorted().iter().map(finding).collect::<Vec<_>>(),
            "placement": self.placement,
            "configuration": self.configuration,
        })
    }
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warning => "warning",
    }
}

fn eprint(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}
