//! Some 130 DSNs, and the promise that no part of a password is printed or used as a host.

use proptest::prelude::*;

use super::*;

/// The parts of a DSN as one line: user, password, address, database, tls.
fn shown(text: &str) -> Result<String, String> {
    let Dsn { address, user, password, database, tls, .. } =
        parse(text).map_err(|DsnError(text)| text)?;
    let password = password.map_or(String::new(), |password| format!(":{password}"));
    let tls = tls.map_or(String::new(), |tls| format!(" {tls}"));
    Ok(format!("{user}{password} {address} {database}{tls}"))
}

#[test]
fn the_forms_of_other_drivers_are_accepted() {
    let plain = "app:pw h:3306 s0";
    for (text, expected) in [
        ("mysql://app:pw@h/s0", plain),
        ("MYSQL://app:pw@H:3306/s0", plain),
        (" mysql://app:pw@h/s0\n", plain),
        ("mariadb://app:pw@h/s0", plain),
        ("mysql2://app:pw@h/s0", plain),
        ("trilogy://app:pw@h/s0", plain),
        ("mysql+pymysql://app:pw@h/s0", plain),
        ("mysql+mysqldb://app:pw@h/s0", plain),
        ("mariadb+mariadbconnector://app:pw@h/s0", plain),
        ("jdbc:mysql://app:pw@h/s0", plain),
        ("jdbc:mariadb://h:3306/s0?user=app&password=pw", plain),
        ("app:pw@tcp(h:3306)/s0", plain),
        ("app:pw@tcp(h)/s0?parseTime=true", plain),
        ("mysql://app:pw@tcp(h:3306)/s0", plain),
        ("mysql://app@h/s0", "app h:3306 s0"),
        ("mysql://app:@h/s0", "app h:3306 s0"),
        ("mysql://app@h.example.org:4000/my-app.v2", "app h.example.org:4000 my-app.v2"),
        ("mysql://app@db_0/s0", "app db_0:3306 s0"),
        ("mysql://app@[::1]/s0", "app [::1]:3306 s0"),
        ("mysql://app@[FE80::1]:4000/s0", "app [fe80::1]:4000 s0"),
        ("app@tcp([::1]:4000)/s0", "app [::1]:4000 s0"),
        ("mysql://app@h/a%2Fb", "app h:3306 a/b"),
        ("mysql://app@server:pw@h/s0", "app@server:pw h:3306 s0"),
        ("mysql://app:p%23w@h/s0", "app:p#w h:3306 s0"),
        ("mysql://app:100%25@h/s0", "app:100% h:3306 s0"),
        ("mysql://app:p%40ss%2Fw%3Ard%3Fx@h/s0", "app:p@ss/w:rd?x h:3306 s0"),
        ("mysql://app:p@ss@h/s0", "app:p@ss h:3306 s0"),
        ("mysql://app:a:b@h/s0", "app:a:b h:3306 s0"),
        ("mysql://app:p\u{e4} ss@h/s0", "app:p\u{e4} ss h:3306 s0"),
        ("mysql://app:p%C3%A4@h/s0", "app:p\u{e4} h:3306 s0"),
        ("mysql://app:a+b@h/s0", "app:a+b h:3306 s0"),
        // Go's driver does not decode.
        ("app:p@s/s?#%41@tcp(h)/s0", "app:p@s/s?#%41 h:3306 s0"),
        ("app:a://b@tcp(h)/s0", "app:a://b h:3306 s0"),
        ("mysql://h/s0?user=app&password=p%40%26", "app:p@& h:3306 s0"),
        ("mysql://app@h/s0?password=pw", plain),
    ] {
        assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn parameters_are_translated_ignored_or_refused_by_name() {
    for (query, expected) in [
        ("charset=utf8mb4&parseTime=true&loc=UTC", Ok("")),
        ("serverTimezone=UTC&useUnicode=true&characterEncoding=UTF-8", Ok("")),
        ("connect_timeout=5&connection_limit=10&&pool_timeout=3", Ok("")),
        ("tls=disabled", Ok(" disabled")),
        ("TLS=false", Ok(" disabled")),
        ("tls=true", Ok(" verify-identity")),
        ("tls=skip-verify", Ok(" required")),
        ("tls=verify-identity", Ok(" verify-identity")),
        ("ssl-mode=REQUIRED", Ok(" required")),
        ("ssl_mode=VERIFY_IDENTITY", Ok(" verify-identity")),
        ("sslMode=DISABLED", Ok(" disabled")),
        ("sslmode=verify-full", Ok(" verify-identity")),
        ("useSSL=false&allowPublicKeyRetrieval=true", Ok(" disabled")),
        ("useSSL=true", Ok(" required")),
        ("useSSL=true&verifyServerCertificate=true", Ok(" verify-identity")),
        ("useSSL=false&requireSSL=false", Ok(" disabled")),
        ("ssl=true", Ok(" verify-identity")),
        ("ssl_disabled=True", Ok(" disabled")),
        ("sslaccept=strict", Ok(" verify-identity")),
        ("sslaccept=accept_invalid_certs", Ok(" required")),
        ("trustServerCertificate=true", Ok(" required")),
        ("tls=preferred", Err("parameter tls with TLS only if")),
        ("ssl-mode=PREFERRED", Err("parameter sslMode with TLS only if")),
        ("ssl-mode=VERIFY_CA", Err("verify-ca")),
        ("tls=custom", Err("parameter tls with an unknown value")),
        ("useSSL", Err("parameter useSSL with an unknown value")),
        ("ssl={\"rejectUnauthorized\":true}", Err("parameter ssl with an unknown value")),
        ("useSSL=false&ssl-mode=REQUIRED", Err("turns TLS off by one parameter")),
        ("unix_socket=/run/mysqld.sock", Err("parameter unixSocket: local sockets")),
        ("socketPath=/run/mysqld.sock", Err("parameter socketPath: local sockets")),
        ("ssl_ca=ca.pem", Err("parameter sslCa: certificate files")),
        ("sslrootcert=ca.pem", Err("parameter sslRootCert: certificate files")),
        ("host=h", Err("parameter host: it belongs before")),
        ("charset=utf8&chraset=utf8", Err("unknown parameter at place 2")),
        ("user=other", Err("names the user twice")),
        ("password=a&password=b", Err("parameter password twice")),
        ("password=a+b", Err("+ in the parameter password")),
        ("password=%zz", Err("% in the password")),
        ("password=p@w", Err("ambiguous")),
    ] {
        let got = shown(&format!("mysql://app@h/s0?{query}"));
        match expected {
            Ok(tls) => assert_eq!(got, Ok(format!("app h:3306 s0{tls}")), "{query}"),
            Err(text) => assert!(got.as_ref().is_err_and(|e| e.contains(text)), "{query}: {got:?}"),
        }
    }
    let notes =
        |query: &str| parse(&format!("mysql://app@h/s0?{query}")).map(|dsn| dsn.notes.join("\n"));
    assert_eq!(notes("tls=required"), Ok(String::new()));
    let text = notes("charset=utf8&useSSL=true&serverTimezone=UTC").unwrap();
    for part in
        ["no effect here: charset, serverTimezone; --zone", "useSSL is read as tls=required"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_error_names_the_part_that_is_wrong() {
    for (text, expected) in [
        ("", "no scheme"),
        ("db0.internal/social", "no scheme"),
        ("app:pw@h/s0", "no scheme"),
        ("mysql:host=h;dbname=s0", "list of name=value"),
        ("Server=h;Database=s0;Uid=app;Pwd=pw;", "list of name=value"),
        ("app:pw@unix(/run/mysqld.sock)/s0", "local sockets"),
        ("app:pw@/s0", "local sockets"),
        ("app:pw@cloudsql(project:zone:name)/s0", "network other than tcp"),
        ("app:pw@tcp(h/s0", "no `)`"),
        ("app:pw@tcp(h)", "no database"),
        ("app:pw@tcp(h)s0", "more than a database name"),
        ("app:a@tcp(b)/c@tcp(h)/s0", "ambiguous"),
        (":pw@tcp(h)/s0", "no user before the password"),
        ("postgres://app:pw@h/s0", "unknown scheme"),
        ("mysqls://app:pw@h/s0", "unknown scheme"),
        ("mysqlx://app:pw@h/s0", "X protocol"),
        ("mysql+srv://app:pw@h/s0", "SRV"),
        ("mysql+pyodbc://app:pw@h/s0", "unknown scheme"),
        ("jdbc:mysql:replication://h1,h2/s0", "choice among servers"),
        ("mysql://app:pw@h1,h2/s0", "several hosts"),
        ("jdbc:mysql://address=(host=h)(port=1)/s0?user=a", "several hosts, or has properties"),
        ("mysql://h/s0", "no user"),
        ("mysql://@h/s0", "no user"),
        ("mysql://:pw@h/s0", "no user before the password"),
        ("mysql://app:pw@/s0", "no host"),
        ("mysql://app:pw@:3306/s0", "no host"),
        ("mysql:///s0", "no user"),
        ("mysql://app:pw@h", "no database"),
        ("mysql://app:pw@h/", "no database"),
        ("mysql://app:pw@h?tls=disabled", "no database"),
        ("mysql://app:pw@h/s0/", "more than a database name"),
        ("mysql://app:pw@h//s0", "more than a database name"),
        ("mysql://app:pw@h/../s0", "more than a database name"),
        ("mysql://app:pw@h/s0#frag", "fragment"),
        ("mysql://app:pw@h/s0?charset=a#b", "fragment"),
        ("mysql://app:pw@h:99999/s0", "port"),
        ("mysql://app:pw@h:0/s0", "port"),
        ("mysql://app:pw@h:/s0", "port"),
        ("mysql://app:pw@h:+33/s0", "port"),
        ("mysql://app:pw@h:x/s0", "port"),
        ("mysql://app:pw@::1/s0", "more than one colon"),
        ("mysql://app:pw@[::1/s0", "IPv6"),
        ("mysql://app:pw@[::1]x/s0", "IPv6"),
        ("mysql://app:pw@[h]/s0", "IPv6"),
        ("mysql://app:pw@%2Frun%2Fmysqld.sock/s0", "local sockets"),
        ("mysql://app:pw@unix(/run/mysqld.sock)/s0", "local sockets"),
        ("mysql://app:pw@h h/s0", "character in the host"),
        ("mysql://app:pw@b\u{fc}cher.example/s0", "Punycode"),
        ("mysql://app:100%@h/s0", "% in the password"),
        ("mysql://app:1%4@h/s0", "% in the password"),
        ("mysql://a%p:pw@h/s0", "% in the user"),
        ("mysql://app:pw@h/s%", "% in the database name"),
        ("mysql://app:%E4@h/s0", "password that is not UTF-8"),
        ("mysql://app:pw@h/s%00", "control character"),
        ("mysql://app:p\tw@h/s0", "control character"),
        ("mysql://app:p#w@h/s0", "ambiguous"),
        ("mysql://app:p/w@h/s0", "ambiguous"),
        ("mysql://app:p?w@h/s0", "ambiguous"),
        ("mysql://app:p@ss/w?topsecret@h/s0", "ambiguous"),
        ("mysql://app:p@topsecret/x@h/s0", "ambiguous"),
        ("mysql://app:p/w@tcp(h)/s0", "ambiguous"),
    ] {
        let got = shown(text);
        assert!(got.as_ref().is_err_and(|error| error.contains(expected)), "{text}: {got:?}");
    }
}

/// Passwords whose every letter is one that no error text has.
fn password() -> impl Strategy<Value = String> {
    "[\u{424}\u{416}]{1,3}([@/?#:%&=+;(), .]{1,2}[\u{424}\u{416}]{1,3}){0,4}[@/?#:%&=+]{0,2}"
}

proptest! {
    /// The password is written into each form unescaped. Then the result is an error or a note
    /// without any part of it, or a DSN that has it in no other part.
    #[test]
    fn no_part_of_a_password_is_printed_or_used_as_another_part(password in password()) {
        for text in [
            format!("mysql://app:{password}@h/s0"),
            format!("mysql://app:{password}@h:3306/s0?charset=utf8&tls=required"),
            format!("mysql+pymysql://app:{password}@h/s0?{password}=1"),
            format!("app:{password}@tcp(h:3306)/s0"),
            format!("mysql://app:{password}@tcp(h:3306)/s0"),
            format!("jdbc:mysql://h/s0?user=app&password={password}"),
            format!("jdbc:mysql://h/s0?password={password}&user=app"),
            format!("mysql://app:{password}"),
            format!("mysql://app:{password}/s0"),
            format!("{password}://app:{password}@h/s0"),
            format!("Server=h;Uid=app;Pwd={password}"),
        ] {
            let secret = |text: &str| text.contains(['\u{424}', '\u{416}']);
            match parse(&text) {
                Err(DsnError(error)) => prop_assert!(!secret(&error), "{text}: {error}"),
                Ok(dsn) => {
                    prop_assert!(!dsn.notes.iter().any(|note| secret(note)), "{text}");
                    let parts = [&dsn.address, &dsn.user, &dsn.database];
                    prop_assert!(!parts.into_iter().any(|part| secret(part)), "{text}");
                }
            }
        }
    }

    /// With letters that a host name can have: no part of the password becomes the host.
    #[test]
    fn only_the_host_is_used_as_the_host(
        password in "[q-z]{1,3}([@/?#:%&=+;(), .]{1,2}[q-z]{1,3}){0,4}",
    ) {
        for text in [
            format!("mysql://app:{password}@h/s0"),
            format!("app:{password}@tcp(h)/s0"),
            format!("jdbc:mysql://h/s0?user=app&password={password}"),
        ] {
            if let Ok(dsn) = parse(&text) {
                prop_assert_eq!(dsn.address, "h:3306", "{}", text);
            }
        }
    }

    #[test]
    fn an_encoded_password_is_accepted(password in "[^\0-\u{1f}\u{7f}-\u{9f}]{1,20}") {
        use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
        let encoded = utf8_percent_encode(&password, NON_ALPHANUMERIC);
        let dsn = parse(&format!("mysql://app:{encoded}@h/s0"));
        prop_assert_eq!(dsn.ok().and_then(|dsn| dsn.password), Some(password));
    }
}
