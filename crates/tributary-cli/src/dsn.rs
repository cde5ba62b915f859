//! Parses the DSNs of `tributary check`, in the forms that the drivers of several languages use.
//!
//! An error or a note quotes no part of the DSN, only words of the tables below: after a mistake,
//! any part may belong to the password. For the same reason a DSN is refused if its parts are
//! ambiguous, so no part of a password is used as a host name.

use std::fmt;
use std::net::Ipv6Addr;

use percent_encoding::percent_decode_str;

/// The accepted schemes, besides `mysql+DRIVER` and `mariadb+DRIVER`.
const SCHEMES: [&str; 6] = ["mysql", "mariadb", "mysql2", "trilogy", "jdbc:mysql", "jdbc:mariadb"];
/// The drivers of SQLAlchemy that connect to MySQL or MariaDB.
const DRIVERS: [&str; 7] =
    ["aiomysql", "asyncmy", "cymysql", "mariadbconnector", "mysqlconnector", "mysqldb", "pymysql"];
const PORT_DEFAULT: u16 = 3306;
const FORM: &str = "mysql://user@host:3306/database";

/// Parameters of drivers that do not matter here.
const IGNORED: [&str; 63] = [
    "allowAllFiles",
    "allowCleartextPasswords",
    "allowFallbackToPlaintext",
    "allowMultiQueries",
    "allowNativePasswords",
    "allowOldPasswords",
    "allowPublicKeyRetrieval",
    "autocommit",
    "autoReconnect",
    "cachePrepStmts",
    "characterEncoding",
    "charset",
    "checkConnLiveness",
    "clientFoundRows",
    "collation",
    "columnsWithAlias",
    "compress",
    "connectionAttributes",
    "connectionCollation",
    "connectionLimit",
    "connectionTimeZone",
    "connectTimeout",
    "dateStrings",
    "debug",
    "encoding",
    "failOverReadOnly",
    "forceConnectionTimeZoneToSession",
    "initCommand",
    "interpolateParams",
    "jdbcCompliantTruncation",
    "loc",
    "localInfile",
    "maxAllowedPacket",
    "maxReconnects",
    "multiStatements",
    "nullCatalogMeansCurrent",
    "parseTime",
    "permitMysqlScheme",
    "pool",
    "poolSize",
    "poolTimeout",
    "prepStmtCacheSize",
    "prepStmtCacheSqlLimit",
    "readTimeout",
    "reconnect",
    "rejectReadOnly",
    "rewriteBatchedStatements",
    "serverTimezone",
    "sessionVariables",
    "socketTimeout",
    "statementCacheSize",
    "timeout",
    "timezone",
    "tinyInt1isBit",
    "transformedBitIsBoolean",
    "useCompression",
    "useCursorFetch",
    "useJDBCCompliantTimezoneShift",
    "useLegacyDatetimeCode",
    "useServerPrepStmts",
    "useUnicode",
    "writeTimeout",
    "zeroDateTimeBehavior",
];

/// Parameters that decide whether and how the connection is encrypted.
const TLS: [&str; 12] = [
    "tls",
    "ssl",
    "sslMode",
    "useSSL",
    "useTLS",
    "requireSSL",
    "sslDisabled",
    "sslAccept",
    "trustServerCertificate",
    "verifyServerCertificate",
    "sslVerifyCert",
    "sslVerifyIdentity",
];

const NO_SOCKETS: &str = "local sockets are not supported; give a host and a port";
const BEFORE_QUERY: &str = "it belongs before the `?`, as in mysql://user@host:3306/database";
const TLS_FILES: &str =
    "certificate files belong in a configuration: set tls_ca_file there, and use check --config";

/// Parameters that cannot be ignored, with the reason.
const REFUSED: [(&str, &str); 25] = [
    ("unixSocket", NO_SOCKETS),
    ("socket", NO_SOCKETS),
    ("socketPath", NO_SOCKETS),
    ("socketFactory", NO_SOCKETS),
    ("localSocket", NO_SOCKETS),
    ("pipe", NO_SOCKETS),
    ("namedPipePath", NO_SOCKETS),
    ("host", BEFORE_QUERY),
    ("server", BEFORE_QUERY),
    ("port", BEFORE_QUERY),
    ("database", BEFORE_QUERY),
    ("dbname", BEFORE_QUERY),
    ("db", BEFORE_QUERY),
    ("sslCa", TLS_FILES),
    ("sslCaPath", TLS_FILES),
    ("sslCert", TLS_FILES),
    ("sslKey", TLS_FILES),
    ("sslIdentity", TLS_FILES),
    ("sslRootCert", TLS_FILES),
    ("serverSslCert", TLS_FILES),
    ("keyStore", TLS_FILES),
    ("trustStore", TLS_FILES),
    ("trustCertificateKeyStoreUrl", TLS_FILES),
    ("clientCertificateKeyStoreUrl", TLS_FILES),
    ("readDefaultFile", "option files are not read; give the values in the DSN"),
];

/// The parts of a DSN.
pub(crate) struct Dsn {
    /// `host:port`, the host in lower case.
    pub(crate) address: String,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) database: String,
    pub(crate) tls: Option<Tls>,
    /// Sentences about parameters that were ignored or translated.
    pub(crate) notes: Vec<String>,
}

/// The value of `tls` in the configuration, from weak to strong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Tls {
    Disabled,
    Required,
    VerifyIdentity,
}

/// A DSN that cannot be used. The text follows `DSN 1 ` and names the part that is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DsnError(pub(crate) String);

impl fmt::Display for DsnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DsnError {}

impl fmt::Display for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disabled => "disabled",
            Self::Required => "required",
            Self::VerifyIdentity => "verify-identity",
        })
    }
}

/// The undecoded parts of a DSN.
struct Parts<'a> {
    user: &'a str,
    password: Option<&'a str>,
    /// Go's driver does not decode the user and the password.
    verbatim: bool,
    host: &'a str,
    database: &'a str,
    query: &'a str,
}

/// Parses a DSN.
///
/// # Errors
/// One sentence about the part that is wrong or ambiguous.
pub(crate) fn parse(text: &str) -> Result<Dsn, DsnError> {
    let text = text.trim();
    if text.chars().any(char::is_control) {
        return fail("contains a line break or another control character");
    }
    let parts = split(text)?;
    let query = Query::parse(parts.query)?;
    let decode = |part: &str, what| match parts.verbatim {
        true => Ok(part.to_owned()),
        false => decoded(part, what),
    };
    let (user, password) = match (parts.user, parts.password) {
        ("", None) => (query.user, query.password),
        ("", Some(_)) => return fail(format!("names no user before the password; write {FORM}")),
        _ if query.user.is_some() => return fail("names the user twice"),
        (_, Some(_)) if query.password.is_some() => return fail("gives the password twice"),
        (user, Some(password)) => {
            (Some(decode(user, "user")?), Some(decode(password, "password")?))
        }
        (user, None) => (Some(decode(user, "user")?), query.password),
    };
    let user = user.filter(|user| !user.is_empty());
    let user = user.ok_or_else(|| DsnError(format!("names no user; write {FORM}")))?;
    let address = address(parts.host)?;
    let database = decoded(parts.database, "database name")?;
    if user.chars().chain(database.chars()).any(char::is_control) {
        return fail("has a control character in the user or the database name");
    }
    let password = password.filter(|password| !password.is_empty());
    Ok(Dsn { address, user, password, database, tls: query.tls, notes: query.notes })
}

fn fail<T>(text: impl Into<String>) -> Result<T, DsnError> {
    Err(DsnError(text.into()))
}

/// Splits a DSN into its parts by its form: a URL, or that of Go's driver, with or without scheme.
fn split(text: &str) -> Result<Parts<'_>, DsnError> {
    let in_url = after_scheme(text)?;
    let body = in_url.unwrap_or(text);
    let (login, host, tail) = match body.split_once("@tcp(") {
        Some((login, rest)) => {
            let Some((host, tail)) = rest.split_once(')') else {
                return fail("has no `)` after `tcp(`");
            };
            (login, host, tail)
        }
        None if in_url.is_none() => return wrong_form(text),
        None => {
            let end = body.find(['/', '?', '#']).unwrap_or(body.len());
            let (authority, tail) = body.split_at(end);
            let (login, host) = authority.rsplit_once('@').unwrap_or(("", authority));
            (login, host, tail)
        }
    };
    // In a URL, these characters end the host. If an `@` follows, they are part of the password.
    if host.contains('@')
        || tail.contains('@')
        || in_url.is_some() && login.contains(['/', '?', '#'])
    {
        return fail(
            "is ambiguous because of an unescaped character in the user, the password or a \
             parameter: write %40 for @, %2F for /, %3F for ? and %23 for #",
        );
    }
    if host == "unix(" {
        return fail(format!("names no host: {NO_SOCKETS}"));
    }
    if tail.contains('#') {
        return fail("has a fragment: remove the part from #, or write %23 for #");
    }
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let database = path.strip_prefix('/').unwrap_or(path);
    if database.is_empty() {
        return fail(format!("names no database; write {FORM}"));
    }
    if database.contains('/') || !path.starts_with('/') {
        return fail("has more than a database name after the host; write %2F for / in a name");
    }
    let (user, password) =
        login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    Ok(Parts { user, password, verbatim: in_url.is_none(), host, database, query })
}

/// The text after the scheme, or `None` if there is no scheme.
fn after_scheme(text: &str) -> Result<Option<&str>, DsnError> {
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
    let scheme = scheme.to_ascii_lowercase();
    let driver = scheme.strip_prefix("mysql+").or(scheme.strip_prefix("mariadb+"));
    if SCHEMES.contains(&scheme.as_str()) || driver.is_some_and(|name| DRIVERS.contains(&name)) {
        return Ok(Some(rest));
    }
    match scheme.as_str() {
        "mysqlx" => fail("asks for the X protocol, which is not supported; write mysql://"),
        "mysql+srv" | "mysqlx+srv" | "jdbc:mysql+srv" => {
            fail("asks for SRV records, which are not supported; name the host itself")
        }
        scheme if scheme.starts_with("jdbc:mysql:") || scheme.starts_with("jdbc:mariadb:") => {
            fail("asks for a choice among servers; give one DSN for each shard, and one host in it")
        }
        // A password in the form of Go's driver may contain `://`.
        _ if text.contains("@tcp(") => Ok(None),
        _ => fail(format!("has an unknown scheme before `://`; write {FORM}")),
    }
}

/// The error for a text that is neither a URL nor in the form of Go's driver.
fn wrong_form<T>(text: &str) -> Result<T, DsnError> {
    if text.contains("@unix(") || text.contains("@/") {
        return fail(format!("names no host: {NO_SOCKETS}"));
    }
    if text.contains('=') {
        return fail(format!("is a list of name=value, which is not supported; write {FORM}"));
    }
    if text.contains('@') && text.contains('(') {
        return fail(format!("names a network other than tcp(host:port); write {FORM}"));
    }
    fail(format!("has no scheme such as mysql://; write {FORM}"))
}

/// Decodes percent-encoded text. `what` names the part in errors.
fn decoded(text: &str, what: &str) -> Result<String, DsnError> {
    let is_hex = |digits: &str| {
        digits.get(..2).is_some_and(|two| two.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    if !text.split('%').skip(1).all(is_hex) {
        return fail(format!(
            "has a % in the {what} without two hexadecimal digits after it; write %25 for %"
        ));
    }
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| {
        DsnError(format!("has a {what} that is not UTF-8; percent-encode its UTF-8 bytes"))
    })?;
    Ok(decoded.into_owned())
}

/// Parses `host`, `host:port` or `[IPv6]:port`, and adds the default port.
fn address(text: &str) -> Result<String, DsnError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (ip, port) = rest.split_once(']').unwrap_or((rest, "]"));
            if ip.parse::<Ipv6Addr>().is_err() || !(port.is_empty() || port.starts_with(':')) {
                return fail("has an IPv6 address that cannot be read; write [::1]:3306");
            }
            (format!("[{ip}]"), port.strip_prefix(':'))
        }
        None => {
            let (host, port) =
                text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            (host_name(host, port)?, port)
        }
    };
    let digits = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit());
    let number = match port {
        None => Some(PORT_DEFAULT),
        Some(port) => port.parse().ok().filter(|number| digits(port) && *number > 0),
    };
    let number =
        number.ok_or_else(|| DsnError("has a port that is not from 1 to 65535".to_owned()))?;
    Ok(format!("{}:{number}", host.to_ascii_lowercase()))
}

/// Checks the name of a host that is not an IPv6 address.
fn host_name(host: &str, port: Option<&str>) -> Result<String, DsnError> {
    if host.to_ascii_lowercase().contains("%2f") {
        return fail(format!("has a path instead of a host: {NO_SOCKETS}"));
    }
    if host.contains([',', '(']) || port.is_some_and(|port| port.contains(',')) {
        return fail(
            "names several hosts, or has properties in the host; give one DSN for each shard, and \
             one host in it",
        );
    }
    if port.is_some_and(|port| port.contains(':')) {
        return fail("has more than one colon in the host; write an IPv6 address as [::1]:3306");
    }
    if host.is_empty() {
        return fail(format!("names no host; write {FORM}"));
    }
    if !host.is_ascii() {
        return fail("has a host with letters outside ASCII; write its name in Punycode (xn--...)");
    }
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if !host.bytes().all(is_part) {
        return fail("has a character in the host that no host name has");
    }
    Ok(host.to_owned())
}

/// The parameters of a DSN.
#[derive(Default)]
struct Query {
    user: Option<String>,
    password: Option<String>,
    tls: Option<Tls>,
    notes: Vec<String>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, DsnError> {
        let mut query = Self::default();
        let (mut ignored, mut modes) = (Vec::new(), Vec::new());
        let parameters = text.split('&').filter(|parameter| !parameter.is_empty());
        for (index, parameter) in parameters.enumerate() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let name = plain(name);
            let known = |known: &&&str| plain(known) == name;
            if let Some(name) = IGNORED.iter().find(known) {
                ignored.push(*name);
            } else if let Some(name) = TLS.iter().find(known) {
                modes.extend(tls_mode(name, value)?.map(|mode| (*name, mode)));
            } else if let Some((name, why)) = REFUSED.iter().find(|(name, _)| known(&name)) {
                return fail(format!("has the parameter {name}: {why}"));
            } else if ["user", "username"].contains(&name.as_str()) {
                set(&mut query.user, value, "user")?;
            } else if ["password", "pwd"].contains(&name.as_str()) {
                set(&mut query.password, value, "password")?;
            } else {
                // Its name is not printed: it may be the end of a password with an `&`.
                return fail(format!("has an unknown parameter at place {}; remove it", index + 1));
            }
        }
        query.note_ignored(&ignored);
        query.set_tls(&modes)?;
        Ok(query)
    }

    fn note_ignored(&mut self, ignored: &[&str]) {
        if !ignored.is_empty() {
            let names = ignored.join(", ");
            let zones = ["serverTimezone", "connectionTimeZone", "timezone", "loc"];
            let hint = match ignored.iter().any(|name| zones.contains(name)) {
                true => "; --zone sets the time zone of DATETIME columns",
                false => "",
            };
            self.notes.push(format!("parameters that have no effect here: {names}{hint}"));
        }
    }

    /// Takes the strongest of the modes that parameters ask for.
    fn set_tls(&mut self, modes: &[(&str, Tls)]) -> Result<(), DsnError> {
        self.tls = modes.iter().map(|(_, mode)| *mode).max();
        let Some(tls) = self.tls else { return Ok(()) };
        if tls > Tls::Disabled && modes.iter().any(|(_, mode)| *mode == Tls::Disabled) {
            return fail("turns TLS off by one parameter and on by another; give only tls");
        }
        let translated: Vec<&str> =
            modes.iter().map(|(name, _)| *name).filter(|name| *name != "tls").collect();
        if !translated.is_empty() {
            self.notes.push(format!("{} is read as tls={tls}", translated.join(", ")));
        }
        Ok(())
    }
}

/// The name of a parameter without case, `-`, `_` and `.`, which differ between drivers.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !"-_.".contains(*c)).map(|c| c.to_ascii_lowercase()).collect()
}

fn set(target: &mut Option<String>, value: &str, what: &str) -> Result<(), DsnError> {
    if value.contains('+') {
        return fail(format!(
            "has a + in the parameter {what}; write %2B for +, or %20 for a space"
        ));
    }
    match target.replace(decoded(value, what)?) {
        Some(_) => fail(format!("has the parameter {what} twice")),
        None => Ok(()),
    }
}

/// The mode that a parameter asks for; `None` if it asks for nothing.
fn tls_mode(name: &str, value: &str) -> Result<Option<Tls>, DsnError> {
    let value = value.to_ascii_lowercase().replace('_', "-");
    let switch = match value.as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    };
    let mode = match (name, switch) {
        ("tls" | "ssl" | "sslMode" | "useTLS", Some(true)) => Some(Tls::VerifyIdentity),
        ("tls" | "ssl" | "sslMode" | "useTLS" | "useSSL", Some(false)) => Some(Tls::Disabled),
        ("useSSL" | "requireSSL" | "trustServerCertificate", Some(true)) => Some(Tls::Required),
        ("sslDisabled", Some(true)) => Some(Tls::Disabled),
        ("verifyServerCertificate" | "sslVerifyCert" | "sslVerifyIdentity", Some(true)) => {
            Some(Tls::VerifyIdentity)
        }
        ("sslAccept", Some(_)) => return unknown_value(name),
        (_, Some(_)) => None,
        ("tls" | "ssl" | "sslMode" | "sslAccept", None) => return named_mode(name, &value),
        (_, None) => return unknown_value(name),
    };
    Ok(mode)
}

/// The mode with this name in one of the drivers.
fn named_mode(name: &str, value: &str) -> Result<Option<Tls>, DsnError> {
    match value {
        "disabled" | "disable" | "none" => Ok(Some(Tls::Disabled)),
        "required" | "require" | "trust" | "skip-verify" | "accept-invalid-certs" => {
            Ok(Some(Tls::Required))
        }
        "verify-identity" | "verify-full" | "strict" => Ok(Some(Tls::VerifyIdentity)),
        "verify-ca" => fail(format!(
            "has the parameter {name} with verify-ca, but the host name is always verified too; \
             write tls=verify-identity"
        )),
        "preferred" | "prefer" | "allow" => fail(format!(
            "has the parameter {name} with TLS only if the server offers it, which protects \
             nothing; write tls=required or tls=disabled"
        )),
        _ => unknown_value(name),
    }
}

fn unknown_value<T>(name: &str) -> Result<T, DsnError> {
    fail(format!(
        "has the parameter {name} with an unknown value; write tls=disabled, tls=required or \
         tls=verify-identity"
    ))
}

#[cfg(test)]
mod tests;
