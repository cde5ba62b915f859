//! `tributary check`: inspects servers, infers a configuration, and reports the problems that must
//! be fixed before Tributary can serve them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Value, json};
use tributary::config::{
    Condition, ConfigError, FleetConfig, Servers, Tables, Zone, conditions_text, environment,
    password_variable,
};
use tributary::internal::checks::{
    check_fleet, find_tables, stray_findings, survey, unknown_placement,
};
use tributary::internal::{Finding, Fit};
use tributary::{Config, UserId};

use crate::dsn::{self, Dsn, DsnError};
use crate::{Outcome, say};

#[derive(Args, Debug)]
#[command(
    after_help = "Give one DSN per shard, mysql://user@host:3306/database. If you know the order \
    of the shards in `user_id % N`, give them in that order. The check writes nothing to the \
    servers; an account that can only read is enough. The configuration is printed to standard \
    output and everything else to standard error, so `tributary check DSN DSN > tributary.toml` \
    makes a file for `tributary serve --config`. The DSNs of other drivers are accepted too, such \
    as jdbc:mysql://host/database?user=app and app@tcp(host:3306)/database. Passwords are read from \
    --password-file, from the DSN, or from TRIBUTARY_SERVERS__DB0__PASSWORD and so on, where db0 is \
    the server that is named first. Exit codes: 0 the shards can be served, 2 a DSN is wrong, 3 a \
    problem must be fixed first."
)]
pub(crate) struct Check {
    /// A shard: mysql://user@host:3306/database
    #[arg(value_name = "DSN", required_unless_present = "config", conflicts_with = "config")]
    dsns: Vec<String>,
    /// Check the fleet of this configuration instead
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A file with the one password of all servers
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    password_file: Option<PathBuf>,
    /// Time zone of DATETIME columns: UTC, +02:00, Europe/Berlin
    #[arg(long, conflicts_with = "config")]
    zone: Option<Zone>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Sampled users per shard from which the order of the shards counts as certain.
const USERS_ENOUGH: usize = 8;

/// The result of a check.
#[derive(Default)]
struct CheckReport {
    /// Findings, each with the name of the server, shard or fleet that it concerns.
    findings: Vec<(String, Finding)>,
    /// A configuration for `tributary serve`, if the tables could be inferred.
    configuration: Option<String>,
    /// The placement rule of the rows, as a sentence.
    placement: Option<String>,
}

impl Check {
    pub(crate) async fn run(self) -> Result<Outcome> {
        let report = match &self.config {
            Some(file) => {
                let config = Config::from_file(file, environment())?;
                let FleetConfig::Servers(servers) = &config.fleet else {
                    bail!("embedded shards need no check; `tributary serve` creates the folder");
                };
                let findings = check_fleet(&config, servers).await?;
                CheckReport { findings, ..CheckReport::default() }
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

    /// Infers a complete configuration from the servers that the DSNs name.
    async fn check_dsns(&self) -> Result<CheckReport> {
        let draft = ConfigDraft::new(&self.dsns, self.password_file.as_ref())?;
        let config = draft.config(&Tables::default(), &ShardOrder::given(self.dsns.len()))?;
        let FleetConfig::Servers(servers) = &config.fleet else { bail!("no servers were named") };
        let (tables, found) = find_tables(servers, self.zone.as_ref()).await;
        let mut findings = [draft.notes.clone(), found].concat();
        let Some(tables) = tables else {
            return Ok(CheckReport { findings, ..CheckReport::default() });
        };

        let servers = Servers::clone(servers).tables(tables.clone());
        let survey = survey(&servers, &config.write).await;
        // The survey reports servers again that were unreachable before: skip such repetitions.
        let known: Vec<_> = findings.iter().map(|(subject, f)| (subject.clone(), f.code)).collect();
        let is_new = |(subject, f): &(String, Finding)| !known.contains(&(subject.clone(), f.code));
        findings.extend(survey.findings.into_iter().filter(is_new));
        let (mut known_rule, fleet) = (true, || "the fleet".to_owned());
        let order = match Fit::of(&survey.samples) {
            Fit::Modulo(order) => ShardOrder { shards: order, map: None },
            Fit::Map(map) => {
                let map = map.iter().map(|shard| shard.index()).collect();
                ShardOrder { map: Some(map), ..ShardOrder::given(self.dsns.len()) }
            }
            Fit::Unknown => {
                known_rule = false;
                findings.push((fleet(), unknown_placement(self.dsns.len())));
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
            findings.extend(order_warning(&in_order).into_iter().map(|warning| (fleet(), warning)));
            placement = Some(placement_text(&order, &in_order));
        }
        let head = placement.as_ref().map_or(String::new(), |text| format!("# {text}\n\n"));
        let configuration = Some(format!("{head}{}", draft.text(&tables, &order)));
        Ok(CheckReport { findings, configuration, placement })
    }
}

/// A warning if the samples are too small to be sure of the order of the shards.
fn order_warning(samples: &[Vec<UserId>]) -> Option<Finding> {
    let unseen = samples.iter().filter(|sample| sample.is_empty()).count();
    let fewest = samples.iter().map(Vec::len).min().unwrap_or(0);
    if samples.len() < 2 || fewest >= USERS_ENOUGH {
        return None;
    }
    let text = match unseen {
        0 => format!(
            "one of the shards has only {fewest} sampled users: the order of the shards is a guess"
        ),
        unseen => format!("{unseen} of the shards have no sampled users: their order is a guess"),
    };
    let cure = "verify that the shards are in the order of user_id % N, then run check --config";
    Some(Finding::warning("few_users", text).cure(cure))
}

/// The order of the shards, and the owner of each bucket.
struct ShardOrder {
    /// Indices into the DSNs.
    shards: Vec<usize>,
    /// The owner of each bucket as an index into `shards`; `None` for `user_id % N`.
    map: Option<Vec<usize>>,
}

impl ShardOrder {
    /// The order of the command line.
    fn given(shards: usize) -> Self {
        Self { shards: (0..shards).collect(), map: None }
    }
}

fn placement_text(order: &ShardOrder, samples: &[Vec<UserId>]) -> String {
    let seen: usize = samples.iter().map(Vec::len).sum();
    match &order.map {
        Some(map) => {
            format!("{} buckets fit the {seen} sampled users; see [placement].", map.len())
        }
        None if seen == 0 => {
            "There are no rows yet: the shards are in the order of the command line.".into()
        }
        None => format!(
            "user_id % {} with this order of the shards fits the {seen} sampled users.",
            order.shards.len()
        ),
    }
}

/// The servers and databases of a configuration that is being inferred, in the order of the DSNs.
struct ConfigDraft {
    servers: Vec<ServerDraft>,
    /// The index of the server in `servers`, and the name of the database.
    shards: Vec<(usize, String)>,
    password_file: Option<PathBuf>,
    /// Findings about parameters of the DSNs.
    notes: Vec<(String, Finding)>,
}

struct ServerDraft {
    address: String,
    user: String,
    password: Option<String>,
    tls: Option<dsn::Tls>,
    /// The number of the first DSN of this server.
    dsn: usize,
}

impl ConfigDraft {
    /// # Errors
    /// A DSN is wrong, or contradicts an earlier one.
    fn new(dsns: &[String], password_file: Option<&PathBuf>) -> Result<Self, DsnError> {
        let password_file = password_file.cloned();
        let (servers, shards, notes) = (Vec::new(), Vec::new(), Vec::new());
        let mut draft = Self { servers, shards, password_file, notes };
        for (index, text) in dsns.iter().enumerate() {
            let number = index + 1;
            let dsn = dsn::parse(text).and_then(|dsn| draft.add(dsn, number));
            dsn.map_err(|DsnError(text)| DsnError(format!("DSN {number} {text}")))?;
        }
        Ok(draft)
    }

    fn add(&mut self, dsn: Dsn, number: usize) -> Result<(), DsnError> {
        let Dsn { address, user, password, database, tls, notes } = dsn;
        for text in notes {
            let finding = Finding::warning("dsn_parameters", text);
            self.notes.push((format!("DSN {number}"), finding));
        }
        let same = |server: &ServerDraft| server.address == address && server.user == user;
        let Some(index) = self.servers.iter().position(same) else {
            self.shards.push((self.servers.len(), database));
            self.servers.push(ServerDraft { address, user, password, tls, dsn: number });
            return Ok(());
        };
        let server = &mut self.servers[index];
        let first = server.dsn;
        let differs =
            |what| Err(DsnError(format!("has another {what} than DSN {first} of this account")));
        if password.is_some() && server.password.is_some() && server.password != password {
            return differs("password");
        }
        if server.tls != tls {
            return differs("value of tls");
        }
        if self.shards.contains(&(index, database.clone())) {
            return Err(DsnError("names the same database as an earlier DSN".to_owned()));
        }
        server.password = server.password.take().or(password);
        self.shards.push((index, database));
        Ok(())
    }

    /// Parses the generated text in the same way as `tributary serve`.
    fn config(&self, tables: &Tables, order: &ShardOrder) -> Result<Config, ConfigError> {
        let mut variables = BTreeMap::new();
        for (index, server) in self.servers.iter().enumerate() {
            let name = password_variable(&format!("db{index}"));
            let password = server.password.clone().or_else(|| std::env::var(&name).ok());
            variables.extend(password.map(|password| (name, password)));
        }
        Config::from_text(&self.text(tables, order), variables)
    }

    /// The configuration as TOML, without passwords.
    fn text(&self, tables: &Tables, order: &ShardOrder) -> String {
        let mut text = String::new();
        for (index, server) in self.servers.iter().enumerate() {
            let name = format!("db{index}");
            let _ = writeln!(text, "[servers.{name}]\naddress = {}", quoted(&server.address));
            let _ = writeln!(text, "user = {}", quoted(&server.user));
            let _ = match &self.password_file {
                Some(path) => writeln!(text, "password_file = {}", quoted(&path.to_string_lossy())),
                None => {
                    writeln!(
                        text,
                        "# Password: set password_file, or the variable {}",
                        password_variable(&name)
                    )
                }
            };
            if let Some(tls) = server.tls {
                let _ = writeln!(text, "tls = \"{tls}\"");
            }
            text.push('\n');
        }
        for (position, index) in order.shards.iter().enumerate() {
            let (server, database) = &self.shards[*index];
            let _ = writeln!(
                text,
                "[[shards]]\nname = \"s{position}\"\nserver = \"db{server}\"\ndatabase = {}\n",
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
        "[tables.follows]\nname = {}\nfollower = {}\nfollowed = {}\n{}\n",
        quoted(&follows.name),
        quoted(&follows.follower),
        quoted(&follows.followed),
        visible_text(follows.visible.as_deref())
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
    text += &visible_text(posts.visible.as_deref());
    if let Some(users) = &tables.users {
        let _ = writeln!(
            text,
            "\n[tables.users]\nname = {}\nid = {}\nhandle = {}",
            quoted(&users.name),
            quoted(&users.id),
            quoted(&users.handle)
        );
        if let Some(column) = &users.display_name {
            let _ = writeln!(text, "display_name = {}", quoted(column));
        }
    }
    text
}

fn visible_text(visible: Option<&[Condition]>) -> String {
    visible.map(|all| format!("visible = {}\n", conditions_text(all))).unwrap_or_default()
}

/// Quotes a TOML string; TOML and JSON use the same escapes.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn quoted_list(names: &[&str]) -> String {
    Value::from(names).to_string()
}

impl CheckReport {
    /// Whether the shards can be served: no finding is an error.
    fn is_ready(&self) -> bool {
        self.findings.iter().all(|(_, finding)| !finding.is_error())
    }

    /// The findings, errors first.
    fn sorted(&self) -> Vec<&(String, Finding)> {
        let mut findings: Vec<_> = self.findings.iter().collect();
        findings.sort_by_key(|(_, finding)| std::cmp::Reverse(finding.level));
        findings
    }

    fn readable(&self) -> String {
        let mut text = String::new();
        for (subject, finding) in self.sorted() {
            let level = level_word(finding);
            let _ = writeln!(text, "{level}: {subject}: {}", finding.text);
            if let Some(cure) = &finding.cure {
                let _ = writeln!(text, "    fix: {cure}");
            }
        }
        if let Some(placement) = &self.placement {
            let _ = writeln!(text, "{placement}");
        }
        text + if self.is_ready() {
            "The shards can be served.\n"
        } else {
            "The shards cannot be served correctly until the errors are fixed.\n"
        }
    }

    fn json(&self) -> Value {
        let finding = |(subject, finding): &&(String, Finding)| {
            json!({
                "level": level_word(finding),
                "code": finding.code,
                "place": subject,
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

fn level_word(finding: &Finding) -> &'static str {
    if finding.is_error() { "error" } else { "warning" }
}

fn eprint(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().write_all(text.as_bytes());
}
