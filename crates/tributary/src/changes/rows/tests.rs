//! Unit tests of the decoding of rows.

use super::*;

fn labels(labels: &[&str]) -> DeclaredColumn {
    let labels = labels.iter().map(|label| (*label).to_owned()).collect();
    DeclaredColumn { labels, ..DeclaredColumn::default() }
}

#[test]
fn labels_are_compared_as_the_server_compares_them() {
    let text = |text: &str| Mark::Text(text.into());
    let declared = labels(&["pending", "accepted", ""]);
    let of = |mark: &str, number| is_marked(&text(mark), Cell::Label(number), &declared);
    assert_eq!([1, 2, 3, 0].map(|n| of("accepted", n)), [false, true, false, false].map(Some));
    assert_eq!(of("Accepted", 2), None, "no identical label");
    // 0 is the value of an invalid label, which the server shows as an empty text too.
    assert_eq!([3, 1, 0].map(|n| of("", n)), [Some(true), Some(false), None]);

    let declared = labels(&["a", "b", "c"]);
    let of = |mark: &str, bits| is_marked(&text(mark), Cell::Set(bits), &declared);
    assert_eq!(
        [of("", 0), of("", 1), of("a,c", 5), of("b", 2)],
        [true, false, true, true].map(Some)
    );
    assert_eq!(["c,a", "a,a", "d", "a,", "A"].map(|mark| of(mark, 5)), [None; 5]);
    let declared = labels(&["x"; 64]);
    assert_eq!(is_marked(&text(&["x"; 64].join(",")), Cell::Set(u64::MAX), &declared), Some(true));
}

#[test]
fn texts_differ_only_if_every_usual_collation_says_so() {
    let declared = DeclaredColumn { readable: true, ..DeclaredColumn::default() };
    let of =
        |text: &str| is_marked(&Mark::Text("User".into()), Cell::Text(text.as_bytes()), &declared);
    assert_eq!([of("User"), of("Tag"), of("Users"), of("")], [true, false, false, false].map(Some));
    assert_eq!(["user", "User ", "U\u{15b}er"].map(of), [None; 3]);
    let unreadable = DeclaredColumn::default();
    assert_eq!(is_marked(&Mark::Text("a".into()), Cell::Text(b"a"), &unreadable), None);
    // In most other character sets, ASCII characters have the same bytes.
    let latin1 = DeclaredColumn { ascii: true, ..DeclaredColumn::default() };
    let of = |bytes| is_marked(&Mark::Text("User".into()), Cell::Text(bytes), &latin1);
    assert_eq!([of(b"User"), of(b"Tag"), of(b"Us\xe9r")], [Some(true), Some(false), None]);
}

#[test]
fn every_value_but_null_is_not_null() {
    let declared = DeclaredColumn::default();
    let of = |mark, cell| is_marked(&mark, cell, &declared);
    for (cell, null) in [(Cell::Null, true), (Cell::Other, false), (Cell::DateTime(0), false)] {
        assert_eq!(of(Mark::Null, cell), Some(null));
        assert_eq!(of(Mark::NotNull, cell), Some(!null));
    }
    assert_eq!([Mark::Null, Mark::NotNull].map(|mark| of(mark, Cell::Absent)), [None; 2]);
    let minus = Cell::Integer { bits: 255, bytes: 1 };
    assert_eq!([-1, 255, 1].map(|n| of(Mark::Number(n), minus)), [true, false, false].map(Some));
}
