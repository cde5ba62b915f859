//! Dialects, encodings, quotes, damaged files and NDJSON: each kind in a file of its own.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::{folder, import, posts_csv, stored};

/// A file, and what an import must make of it.
struct Case<'a> {
    file: (&'a str, Vec<u8>),
    options: &'a [&'a str],
    code: i32,
    /// The posts that are stored: id and text.
    posts: &'a [(u64, &'a str)],
    messages: &'a [&'a str],
}

impl Case<'_> {
    fn check(&self) {
        let (fleet, (name, bytes)) = (folder(), &self.file);
        let what = format!("{:?} {:?}", String::from_utf8_lossy(bytes), self.options);
        import(&fleet, name, bytes, self.options).check(&what, self.code, "", self.messages);
        let posts = stored(&fleet);
        let found: Vec<(u64, &str)> = posts.iter().map(|(id, _, text)| (*id, &**text)).collect();
        assert_eq!(found, self.posts, "{what}");
        for (id, time, _) in &posts {
            assert!(time.starts_with("2025-11-24T16:00:0"), "{what}: {id} {time}");
        }
    }
}

fn case<'a>(
    file: Vec<u8>,
    options: &'a [&'a str],
    code: i32,
    posts: &'a [(u64, &'a str)],
    messages: &'a [&'a str],
) -> Case<'a> {
    Case { file: ("p.csv", file), options, code, posts, messages }
}

const BACKSLASHES: &str = "1,4,\"she said \\\"hi\\\"\",1764000000000\n\
    2,4,\\N,1764000001000\n\
    3,4,\"line one\\\nline two\",1764000002000\n\
    4,4,\"ends with a backslash\\\\\",1764000003000\n\
    5,4,\"doubled \"\"quotes\"\" are fine\",1764000004000\n\
    6,4,\"a\\tb\\nc\\0d\",1764000005000\n\
    7,4,NULL,1764000006000\n";

#[test]
fn a_text_that_depends_on_the_dialect_is_refused_unless_an_option_names_it() {
    let hint = "--dialect mysql";
    case(
        posts_csv(BACKSLASHES),
        &[],
        4,
        &[(5, "doubled \"quotes\" are fine")],
        &[
            "line 2: a quote opens in line 2, and text follows the quote that closes it",
            hint,
            "line 3: a field has a backslash",
            "lines 4 to 5: a field has",
            "line 6: a field has",
            "line 8: a field has",
            "line 9: a field has a backslash, a quote or NULL",
        ],
    )
    .check();
    case(
        posts_csv(BACKSLASHES),
        &["--dialect", "mysql"],
        4,
        &[
            (1, "she said \"hi\""),
            (3, "line one\nline two"),
            (4, "ends with a backslash\\"),
            (5, "doubled \"quotes\" are fine"),
            (6, "a\tb\nc\0d"),
        ],
        &["line 3: content is NULL; remove the row", "line 9: content is NULL"],
    )
    .check();
    case(
        posts_csv(BACKSLASHES),
        &["--dialect", "csv"],
        4,
        &[
            (2, "\\N"),
            (3, "line one\\\nline two"),
            (4, "ends with a backslash\\\\"),
            (5, "doubled \"quotes\" are fine"),
            (6, "a\\tb\\nc\\0d"),
            (7, "NULL"),
        ],
        &["line 2: a quote opens in line 2"],
    )
    .check();
    // MySQL cannot have written these, so they have one meaning.
    let ordinary = posts_csv(
        "1,4,¯\\_(ツ)_/¯,1764000000000\n2,4,C:\\Users\\x,1764000001000\n\
         3,4,\"/  \\\n\\(•_•)\",1764000002000\n4,4,\"ends with \\\",1764000003000\n",
    );
    let texts =
        [(1, "¯\\_(ツ)_/¯"), (2, "C:\\Users\\x"), (3, "/  \\\n\\(•_•)"), (4, "ends with \\")];
    case(ordinary, &[], 0, &texts, &[]).check();
}

#[test]
fn files_that_mysql_writes_are_read_with_their_dialect() {
    let mysql = ["--dialect", "mysql", "--header", "tweet_id,user_id,content,timestamp"];
    let dump = "1\t4\ttab\\\tline\\\nzero\\0 back\\\\ \"quoted\"\t1764000000000\n\
                2\t4\t\"all quoted\"\t1764000001000\n3\t4\t\\N\t1764000002000\n";
    let texts = [(1, "tab\tline\nzero\0 back\\ \"quoted\""), (2, "\"all quoted\"")];
    case(dump.into(), &mysql, 4, &texts, &["line 4: content is NULL"]).check();
    let windows = dump.replace("\\\n", "\\\r\n").replace("000\n", "000\r\n");
    let texts = [(1, "tab\tline\r\nzero\0 back\\ \"quoted\""), (2, "\"all quoted\"")];
    case(windows.into(), &mysql, 4, &texts, &["line 4: content is NULL"]).check();
    let batch = "tweet_id\tuser_id\tcontent\ttimestamp\n1\t4\ta\\tb\\nc\\\\\t1764000000000\n";
    case(batch.into(), &mysql[..2], 0, &[(1, "a\tb\nc\\")], &[]).check();
    let single = posts_csv("1,4,'it\\'s, here',1764000000000\n");
    let options = ["--dialect", "mysql", "--quote", "'"];
    case(single, &options, 0, &[(1, "it's, here")], &[]).check();
    let junk = posts_csv("1,4,\"a\" b,1764000000000\n2,4,\"open\\\",1764000001000\n");
    case(
        junk,
        &mysql[..2],
        4,
        &[],
        &[
            "line 2: a quote opens in line 2, and text follows",
            "line 3: a quote opens in line 3 and does not close",
        ],
    )
    .check();
    // Without the option, a quote in a file with tabs could belong to the text.
    let tabs = "tweet_id\tuser_id\tcontent\ttimestamp\n1\t4\t\"a\"\t1764000000000\n";
    let refused = ["line 2: a field has a backslash, a quote or NULL"];
    case(tabs.into(), &["--delimiter", "tab"], 4, &[], &refused).check();
    let options = ["--delimiter", "tab", "--dialect", "csv"];
    case(tabs.into(), &options, 0, &[(1, "a")], &[]).check();
}

#[test]
fn a_header_that_does_not_fit_is_refused_with_the_option_that_helps() {
    let row = "1;4;\"ein; Wort\";1764000000000\r\n";
    let semicolon = format!("tweet_id;user_id;content;timestamp\r\n{row}");
    let names = "id,author_id,body,created_at\n1,4,a,1764000000000\n";
    for (file, message) in [
        (
            semicolon.as_str(),
            "p.csv has one column only; if its fields are separated otherwise, \
                              add --delimiter ';'",
        ),
        ("tweet_id\tuser_id\tcontent\ttimestamp\n", "add --delimiter tab"),
        (
            names,
            "p.csv has no column `tweet_id` in its header line; its columns are `id`, \
                 `author_id`, `body`, `created_at`; add --columns NAME=tweet_id",
        ),
        ("TWEET_ID,user_id,content,timestamp\n", "add --columns 'TWEET_ID=tweet_id'"),
        ("1,4,a,1764000000000\n", "name its columns with --header"),
        ("tweet_id,user_id,content,content,timestamp\n", "has two columns `content`"),
        ("", "p.csv is empty"),
        ("{\"tweet_id\": 1}\n", "name the file with .ndjson"),
        ("\"tweet_id,user_id,content,timestamp\n1,4,a,1\n", "a quote opens in line 1 and does not"),
        ("t\0w\0e\0e\0t\0", "p.csv is not UTF-8 text; convert it to UTF-8, or to UTF-16"),
    ] {
        case(file.into(), &[], 1, &[], &[message]).check();
    }
    let fits = [(1, "ein; Wort")];
    case(semicolon.into(), &["--delimiter", ";"], 0, &fits, &[]).check();
    let rename = ["--columns", "id=tweet_id,author_id=user_id,body=content,created_at=timestamp"];
    case(names.into(), &rename, 0, &[(1, "a")], &[]).check();
    let header = ["--header", "tweet_id,x,user_id,content,timestamp"];
    case("1,0,4,a,1764000000000\n".into(), &header, 0, &[(1, "a")], &[]).check();
    for (options, message) in [
        (["--columns", "id"], "is not NAME=COLUMN"),
        (["--columns", "id=post"], "the columns are follower_user_id"),
        (["--delimiter", "ab"], "use one punctuation character"),
        (["--dialect", "excel"], "possible values: csv, mysql"),
    ] {
        case(posts_csv(""), &options, 2, &[], &[message]).check();
    }
}

#[test]
fn encodings_are_known_by_their_mark_and_damage_is_refused() {
    let text = "tweet_id,user_id,content,timestamp\r\n1,4,\"é 🎉\r\nb\",1764000000000\r\n";
    let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        format!("\u{feff}{text}").encode_utf16().flat_map(bytes).collect()
    };
    let texts = [(1, "é 🎉\r\nb")];
    for file in [
        text.as_bytes().to_vec(),
        format!("\u{feff}{text}").into_bytes(),
        utf16(u16::to_le_bytes),
        utf16(u16::to_be_bytes),
    ] {
        case(file, &[], 0, &texts, &[]).check();
    }
    let mut cut = utf16(u16::to_le_bytes);
    cut.pop();
    case(cut, &[], 1, &[], &["p.csv: the file ends within a UTF-16 character"]).check();
    let mut latin1 = posts_csv("1,4,a,1764000000000\n2,4,");
    latin1.extend(b"caf\xe9,1764000001000\n3,4,c,1764000002000\n");
    let message = "line 3: content: incomplete utf-8 byte sequence";
    case(latin1, &[], 4, &[(1, "a"), (3, "c")], &[message, "convert the file to UTF-8"]).check();
}

#[test]
fn rows_that_a_stray_quote_joins_are_refused_with_their_lines() {
    let time = 1_764_000_000_000_i64;
    let open = format!("1,4,a,{time}\n\n2,4,\"b\nb\",{time}\n3,4,\"6 inch,{time}\n4,4,d,{time}\n");
    case(
        posts_csv(&open),
        &[],
        4,
        &[(1, "a"), (2, "b\nb")],
        &["p.csv: lines 6 to 7: a quote opens in line 6 and does not close"],
    )
    .check();
    let two = format!(
        "1,4,a,{time}\n2,4,\"6 inch,{time}\n3,4,b,{time}\n4,4,c,{time}\n5,4,5\" pipe,{time}\n\
         6,4,8\" pipe,{time}\n"
    );
    case(posts_csv(&two), &[], 4, &[(1, "a"), (6, "8\" pipe")], &[
        "p.csv: lines 3 to 6: a quote opens in line 3, and text follows the quote that closes it",
    ])
    .check();
    // Correct CSV by the letter: one text that holds the end of a row and the start of the next.
    for rows in [
        format!("1,4,a,{time}\n2,4,\"6 inch,{time}\n3,4,b,{time}\n4,4,pipe 5\",{time}\n"),
        format!("1,4,a,{time}\n2,4,\"6 inch,{time}\n3,4,pipe 5\",{time}\n"),
    ] {
        let message = "a text contains what looks like further rows";
        case(posts_csv(&rows), &[], 4, &[(1, "a")], &[message]).check();
        let crlf = posts_csv(&rows.replace('\n', "\r\n"));
        case(crlf, &["--dialect", "csv"], 4, &[(1, "a")], &[message, "lines 3 to"]).check();
    }
    let last = format!("tweet_id,user_id,timestamp,content\n1,4,{time},\"a\n2,4,{time},b\"\n");
    case(last.into(), &[], 4, &[], &["lines 2 to 3: a text contains what looks like"]).check();
    let after = format!("1,4,\"a\"b,{time}\n2,4,c,{time}\n3,4,a\rb,{time}\n");
    case(
        posts_csv(&after),
        &[],
        4,
        &[(2, "c")],
        &[
            "line 2: a quote opens in line 2, and text follows",
            "line 4: a carriage return is within the line",
        ],
    )
    .check();
    let quoted = format!("1,4,'a',{time}\n2,4,'tis,{time}\n");
    let message = "line 2: a field is in single quotes; add --quote \"'\"";
    case(posts_csv(&quoted), &[], 4, &[(2, "'tis")], &[message]).check();
}

#[test]
fn line_numbers_are_those_of_an_editor() {
    let rows = "\n1,4,\"a\n\nb\",1764000000000\n\n\nx,4,c,1764000001000\n";
    for end in ["\n", "\r\n", "\r"] {
        let file = posts_csv(rows).iter().map(|byte| *byte as char).collect::<String>();
        let text = format!("a{end}{end}b");
        let message = ["p.csv: line 8: tweet_id is not an id below 2^63 but `x`; correct it"];
        case(file.replace('\n', end).into(), &[], 4, &[(1, &text)], &message).check();
    }
}

#[test]
fn a_file_that_is_cut_off_does_not_store_half_a_row() {
    for (rows, refused) in [
        ("1,4,a,1764000000000\n2,4,b,17640000", true),
        ("1,4,a,1764000000000\n2,4,b,176400000100", true),
        ("1,4,a,1764000000000\n2,4,b", true),
        ("1,4,a,1764000000000\n2,4,\"b", true),
        ("1,4,a,1764000000000\n2,4,b,1764000001000", false),
        ("1,4,a,2025-11-24T16:00:00Z\n2,4,b,2025-11-24T16:00:01", true),
        ("1,4,a,2025-11-24T16:00:00Z\n2,4,b,2025-11-24T16:00:01+01", true),
        ("1,4,a,2025-11-24T16:00:00Z\n2,4,b,2025-11-24T16:00:01Z", false),
    ] {
        let posts: &[_] = if refused { &[(1, "a")] } else { &[(1, "a"), (2, "b")] };
        let message = if refused { "p.csv: line 3: " } else { "" };
        case(posts_csv(rows), &[], if refused { 4 } else { 0 }, posts, &[message]).check();
    }
    let header = "tweet_id,user_id,timestamp,content\n1,4,1764000000000,";
    for (text, code, posts) in [
        ("half a te", 4, &[][..]),
        ("\"whole\"", 0, &[(1, "whole")]),
        ("\"say \"\"hi\"\"\"", 0, &[(1, "say \"hi\"")]),
        ("5\"", 4, &[]),
        ("half a te\n", 0, &[(1, "half a te")]),
    ] {
        let file = format!("{header}{text}").into_bytes();
        let message = if code == 4 { "has no line end, so the file may be cut off" } else { "" };
        case(file, &[], code, posts, &[message]).check();
    }
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    let row = |id: u64| format!("{id},4,{},17640000{:05}\n", id * 7_919, id % 9_000);
    gzip.write_all(&posts_csv(&(1..60).map(row).collect::<String>())).unwrap();
    let whole = gzip.finish().unwrap();
    let cut = whole[..whole.len() - 8].to_vec();
    let fleet = folder();
    import(&fleet, "p.csv.gz", &cut, &[]).check(
        "gzip",
        4,
        "1 refused",
        &["the file cannot be read from here", "the rows above are imported"],
    );
    assert!(!stored(&fleet).is_empty());
    import(&fleet, "p.csv.gz", &whole, &[]).check("gzip", 0, "0 refused", &[]);
    assert_eq!(stored(&fleet).len(), 59);
}

#[test]
fn ndjson_has_the_same_fields_and_the_same_rules() {
    let lines = "{\"tweet_id\": 1, \"user_id\": \"4\", \"content\": \"a\\nb \\ud83c\\udf89\", \
                 \"timestamp\": 1764000000000, \"other\": [1]}\n\n\
                 {\"tweet_id\":\"2\",\"user_id\":4,\"content\":\"b\",\"timestamp\":\"1764000001000\"}\n\
                 {\"tweet_id\":3,\"user_id\":4,\"content\":null,\"timestamp\":1764000002000}\n\
                 {\"tweet_id\":3.5,\"user_id\":4,\"content\":\"c\",\"timestamp\":1764000002000}\n\
                 {\"tweet_id\":4,\"user_id\":4,\"content\":5,\"timestamp\":1764000002000}\n\
                 {\"tweet_id\":4,\"user_id\":4,\"content\":\"a\",\"content\":\"b\",\"timestamp\":1}\n\
                 {\"tweet_id\":5,\"user_id\":4,\"timestamp\":1764000002000}\n\
                 {\"tweet_id\":6,\"user_id\":4,\"content\":\"\\ud83c\",\"timestamp\":1764000002000}\n\
                 {\"tweet_id\":7,\"user_id\":4,\"content\":\"d\",\"timestamp\":1764000002}\n\
                 {\"tweet_id\":8,\"user_id\":4,\"content\":\"d\",\"timesta";
    let messages = [
        "p.ndjson: line 4: content is NULL",
        "line 5: tweet_id is not an id below 2^63 but `3.5`",
        "line 6: the value of `content` is not a string",
        "line 7: the object has two members `content`",
        "line 8: the object has no member `content`",
        "line 9: not a JSON object",
        "line 10: timestamp `1764000002` is seconds since 1970",
        "line 11: not a JSON object",
    ];
    let posts = [(1, "a\nb 🎉"), (2, "b")];
    let case = |name, bytes, options, code, posts, messages| Case {
        file: (name, bytes),
        options,
        code,
        posts,
        messages,
    };
    case("p.ndjson", lines.into(), &[], 4, &posts, &messages).check();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(lines.as_bytes()).unwrap();
    case("p.ndjson.gz", gzip.finish().unwrap(), &[], 4, &posts, &messages[1..]).check();
    let names = ["--columns", "id=tweet_id,by=user_id,text=content,at=timestamp"];
    let object = "{\"id\":1,\"by\":4,\"text\":\"a\",\"at\":\"2025-11-24T16:00:00Z\"}";
    case("p.jsonl", object.into(), &names, 0, &[(1, "a")], &[]).check();
    let message = ["--dialect, --delimiter, --quote and --header are for CSV only"];
    case("p.ndjson", object.into(), &["--delimiter", ";"], 1, &[], &message).check();
}
