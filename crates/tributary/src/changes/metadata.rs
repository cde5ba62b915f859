//! Decodes the optional metadata of an announced table: the properties of its columns that a
//! server logs with `binlog_row_metadata`. Pure.

use super::bytes::Bytes;

/// The properties of a column, as far as the server logs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LoggedColumn {
    pub(crate) name: Option<String>,
    pub(crate) unsigned: Option<bool>,
    /// The number of the collation of a text column.
    pub(crate) collation: Option<u64>,
    /// The labels of an ENUM.
    pub(crate) labels: Option<Vec<String>>,
}

/// Kinds of metadata, by the numbers that the servers use.
mod field {
    pub(super) const SIGNEDNESS: u8 = 1;
    pub(super) const DEFAULT_COLLATION: u8 = 2;
    pub(super) const COLLATIONS: u8 = 3;
    pub(super) const NAMES: u8 = 4;
    pub(super) const ENUM_LABELS: u8 = 6;
}

/// A class of column types, which a kind of metadata describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Number,
    Text,
    Enum,
    Other,
    /// The servers disagree whether it is a number or a text, so the metadata cannot be assigned.
    Ambiguous,
}

/// The metadata of the columns, whose classes are given. `None` if it cannot be decoded.
pub(crate) fn logged_columns(mut bytes: Bytes<'_>, classes: &[Class]) -> Option<Vec<LoggedColumn>> {
    let mut columns = vec![LoggedColumn::default(); classes.len()];
    let ambiguous = classes.contains(&Class::Ambiguous);
    while !bytes.is_empty() {
        let kind = bytes.byte()?;
        let length = bytes.length()?;
        let mut value = Bytes(bytes.take(length)?);
        match kind {
            field::NAMES => {
                for column in &mut columns {
                    column.name = Some(text(&mut value)?);
                }
            }
            field::SIGNEDNESS if !ambiguous => {
                let bits = value.rest();
                for (index, column) in of(Class::Number, classes, &mut columns).enumerate() {
                    // Bit 0 is the highest bit of the first byte.
                    let byte = bits.get(index / 8)?;
                    column.unsigned = Some(byte << (index % 8) & 0x80 != 0);
                }
            }
            field::DEFAULT_COLLATION if !ambiguous => {
                default_collation(value, of(Class::Text, classes, &mut columns))?
            }
            field::COLLATIONS if !ambiguous => {
                for column in of(Class::Text, classes, &mut columns) {
                    column.collation = Some(number(&mut value)?);
                }
            }
            field::ENUM_LABELS => {
                for column in of(Class::Enum, classes, &mut columns) {
                    let count = value.length()?;
                    let labels: Option<Vec<String>> =
                        (0..count).map(|_| text(&mut value)).collect();
                    column.labels = Some(labels?);
                }
            }
            _ => {}
        }
    }
    Some(columns)
}

/// The columns of one class.
fn of<'c>(
    class: Class,
    classes: &'c [Class],
    columns: &'c mut [LoggedColumn],
) -> impl Iterator<Item = &'c mut LoggedColumn> {
    let columns = columns.iter_mut().zip(classes);
    columns.filter(move |(_, of)| **of == class).map(|(column, _)| column)
}

/// Sets the collations of text columns: a default, and pairs of a column and its collation.
fn default_collation<'c>(
    mut value: Bytes<'_>,
    columns: impl Iterator<Item = &'c mut LoggedColumn>,
) -> Option<()> {
    let default = number(&mut value)?;
    let mut columns: Vec<&mut LoggedColumn> = columns.collect();
    columns.iter_mut().for_each(|column| column.collation = Some(default));
    while !value.is_empty() {
        let index = value.length()?;
        columns.get_mut(index)?.collation = Some(number(&mut value)?);
    }
    Some(())
}

fn number(bytes: &mut Bytes<'_>) -> Option<u64> {
    u64::try_from(bytes.length()?).ok()
}

fn text(bytes: &mut Bytes<'_>) -> Option<String> {
    let length = bytes.length()?;
    Some(String::from_utf8_lossy(bytes.take(length)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_metadata_is_assigned_to_its_class_of_columns() {
        let classes = [Class::Number, Class::Text, Class::Enum, Class::Number, Class::Text];
        let bytes = [
            &[field::SIGNEDNESS, 1, 0b0100_0000][..],
            &[field::DEFAULT_COLLATION, 3, 45, 1, 8],
            &[field::NAMES, 10, 1, b'a', 1, b'b', 1, b'c', 1, b'd', 1, b'e'],
            &[field::ENUM_LABELS, 5, 2, 1, b'x', 1, b'y'],
            &[99, 2, 0, 0],
        ];
        let columns = logged_columns(Bytes(&bytes.concat()), &classes).unwrap();
        let names: Vec<_> = columns.iter().map(|c| c.name.as_deref().unwrap()).collect();
        assert_eq!(names, ["a", "b", "c", "d", "e"]);
        let unsigned = columns.iter().map(|column| column.unsigned);
        assert_eq!(unsigned.collect::<Vec<_>>(), [Some(false), None, None, Some(true), None]);
        let collations = columns.iter().map(|column| column.collation);
        assert_eq!(collations.collect::<Vec<_>>(), [None, Some(45), None, None, Some(8)]);
        assert_eq!(columns[2].labels, Some(vec!["x".into(), "y".into()]));
        let ambiguous = [Class::Ambiguous, Class::Number];
        let columns = logged_columns(Bytes(bytes[0]), &ambiguous).unwrap();
        assert_eq!(columns[1].unsigned, None);
        assert_eq!(logged_columns(Bytes(&[field::NAMES, 1, 7]), &classes), None);
    }
}
