//! The rows of an NDJSON file: one JSON object in each line.

use std::fmt;
use std::io::Result;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::CONTENT_BYTES_MAX;
use super::header::{Column, Rename, name_in_file};
use super::input::Input;
use super::records::Lines;
use super::rows::Row;

/// The longest line, in bytes. An escaped byte takes six.
const LINE_BYTES_MAX: usize = 6 * CONTENT_BYTES_MAX + (64 << 10);

/// Reads the objects of one file.
pub(super) struct Objects {
    input: Input,
    line: Vec<u8>,
    /// The wanted columns with their names in the file.
    names: Vec<(Column, String)>,
}

/// The members of an object in order. Unlike a map it keeps two members of one name apart.
struct Members(Vec<(String, Value)>);

impl Objects {
    pub(super) fn new(input: Input, wanted: &[Column], renames: &[Rename]) -> Self {
        let name = |column: &Column| (*column, name_in_file(*column, renames).to_owned());
        Self { input, line: Vec::new(), names: wanted.iter().map(name).collect() }
    }

    /// The next row, or the reason why it is refused; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<(Lines, std::result::Result<Row, String>)>> {
        loop {
            self.line.clear();
            let mut too_long = false;
            while let Some(part) = self.input.next()? {
                too_long |= self.line.len() + part.len() > LINE_BYTES_MAX;
                if !too_long {
                    self.line.extend(part);
                }
                if self.input.line_ended() {
                    break;
                }
            }
            if self.line.is_empty() {
                return Ok(None);
            }
            let lines = Lines { first: self.input.line(), last: self.input.line() };
            if too_long {
                let text = format!("the line has more than {LINE_BYTES_MAX} bytes; shorten it");
                return Ok(Some((lines, Err(text))));
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some((lines, self.row())));
            }
        }
    }

    fn row(&self) -> std::result::Result<Row, String> {
        let Members(members) = serde_json::from_slice(&self.line).map_err(|error| {
            format!("not a JSON object: {error}; write one object in each line, in UTF-8")
        })?;
        self.names.iter().map(|(column, name)| value(&members, *column, name)).collect()
    }
}

fn value(
    members: &[(String, Value)],
    column: Column,
    name: &str,
) -> std::result::Result<Option<String>, String> {
    let mut found = members.iter().filter(|(member, _)| member == name);
    let Some((_, value)) = found.next() else {
        if column.is_optional() {
            return Ok(None);
        }
        let column = column.name();
        return Err(format!(
            "the object has no member `{name}`; add it, or name another one with \
             --columns NAME={column}"
        ));
    };
    if found.next().is_some() {
        return Err(format!("the object has two members `{name}`; remove one of them"));
    }
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text.clone())),
        Value::Number(number) if column != Column::Content => Ok(Some(number.to_string())),
        Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            let kind = if column == Column::Content { "string" } else { "string or number" };
            Err(format!("the value of `{name}` is not a {kind}; correct it"))
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
