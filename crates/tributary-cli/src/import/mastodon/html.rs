//! The text of a post that is HTML, as Mastodon and related servers write it: paragraphs, line
//! breaks, links, lists and quotes. Styles are dropped.

/// Elements that are paragraphs of their own.
const BLOCKS: [&str; 12] =
    ["p", "div", "blockquote", "pre", "ul", "ol", "h1", "h2", "h3", "h4", "h5", "h6"];
/// Elements whose content is no text.
const HIDDEN: [&str; 3] = ["script", "style", "template"];

/// The text under construction.
#[derive(Default)]
struct Text {
    text: String,
    /// Line ends before the next character.
    line_ends: usize,
    /// Within `pre`, where blanks and line ends are part of the text.
    preformatted: bool,
}

/// Converts HTML to text. Anything that is not HTML stays as it is.
pub(super) fn text_of(html: &str) -> String {
    let (mut text, mut rest) = (Text::default(), html);
    while let Some(at) = rest.find(['<', '&']) {
        text.push_source(&rest[..at]);
        rest = &rest[at..];
        let taken = match rest.starts_with('<') {
            true => text.take_tag(rest),
            false => text.take_entity(rest),
        };
        if taken == 0 {
            text.push(&rest[..1]);
        }
        rest = &rest[taken.max(1)..];
    }
    text.push_source(rest);
    text.text
}

impl Text {
    fn push(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        if !self.text.is_empty() {
            self.text.extend(std::iter::repeat_n('\n', self.line_ends));
        }
        self.line_ends = 0;
        self.text.push_str(text);
    }

    /// Adds text of the source, where a line end is a blank.
    fn push_source(&mut self, source: &str) {
        if self.preformatted {
            return self.push(source);
        }
        let blank = self.text.is_empty() || self.line_ends > 0;
        if blank && source.trim().is_empty() {
            return;
        }
        self.push(&source.replace(['\n', '\r'], " "));
    }

    fn break_line(&mut self, line_ends: usize) {
        self.line_ends = self.line_ends.max(line_ends);
    }

    /// Applies the tag or comment that `rest` starts with. Returns its length; 0 if it is none.
    fn take_tag(&mut self, rest: &str) -> usize {
        if rest.starts_with("<!--") {
            return rest.find("-->").map_or(rest.len(), |end| end + 3);
        }
        let Some(end) = tag_end(rest) else { return 0 };
        let inner = &rest[1..end - 1];
        let (closes, inner) = match inner.strip_prefix('/') {
            Some(inner) => (true, inner),
            None => (false, inner),
        };
        let name = inner.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let name = name.to_ascii_lowercase();
        if name.is_empty() && !inner.starts_with('!') {
            return 0;
        }
        match name.as_str() {
            "br" => self.line_ends += 1,
            "li" if !closes => {
                self.break_line(1);
                self.push("- ");
            }
            name if BLOCKS.contains(&name) => self.break_line(2),
            name if HIDDEN.contains(&name) && !closes => return hidden_end(rest, name),
            _ => {}
        }
        if name == "pre" {
            self.preformatted = !closes;
        }
        end
    }

    /// Adds the character of the entity that `rest` starts with. Returns its length; 0 if it is
    /// none.
    fn take_entity(&mut self, rest: &str) -> usize {
        /// `&CounterClockwiseContourIntegral;` is the longest one; none of ours is longer.
        const BYTES_MAX: usize = 33;
        let Some(end) = rest.bytes().take(BYTES_MAX).position(|byte| byte == b';') else {
            return 0;
        };
        let name = &rest[1..end];
        let character = match name {
            "amp" => Some('&'),
            "lt" => Some('<'),
            "gt" => Some('>'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            "nbsp" => Some('\u{a0}'),
            "hellip" => Some('…'),
            _ => numbered(name),
        };
        let Some(character) = character else { return 0 };
        self.push(character.encode_utf8(&mut [0; 4]));
        end + 1
    }
}

/// The character of `#8230` or `#x2026`.
fn numbered(name: &str) -> Option<char> {
    let number = name.strip_prefix('#')?;
    let code = match number.strip_prefix(['x', 'X']) {
        Some(digits) => u32::from_str_radix(digits, 16).ok()?,
        None => number.parse().ok()?,
    };
    char::from_u32(code)
}

/// The length of the tag that the text starts with. A `>` within a quoted attribute is no end.
fn tag_end(rest: &str) -> Option<usize> {
    let mut quote = None;
    for (at, byte) in rest.bytes().enumerate() {
        match (quote, byte) {
            (Some(open), _) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'>') => return Some(at + 1),
            (None, _) => {}
        }
    }
    None
}

/// The end of an element whose content is no text.
fn hidden_end(rest: &str, name: &str) -> usize {
    let lower = rest.to_ascii_lowercase();
    let end = lower.find(&format!("</{name}"));
    end.and_then(|at| Some(at + tag_end(&rest[at..])?)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::text_of;

    #[test]
    fn paragraphs_breaks_links_and_lists_become_text() {
        for (html, text) in [
            (
                "<p>Hello<br>world</p><p>2 &lt; 3 &amp;&amp; &#39;x&#x27;</p>",
                "Hello\nworld\n\n2 < 3 && 'x'",
            ),
            (
                "<p><span class=\"h-card\"><a href=\"https://a/@b\">@<span>b</span></a></span> \
                 <a href=\"https://x.org/long\"><span class=\"invisible\">https://</span>\
                 <span class=\"ellipsis\">x.org/lo</span><span class=\"invisible\">ng</span></a></p>",
                "@b https://x.org/long",
            ),
            ("<ul><li>one</li><li>two</li></ul><p>end</p>", "- one\n- two\n\nend"),
            ("<p>a</p>\n<p>b</p>\n", "a\n\nb"),
            ("one<br /><br />two", "one\n\ntwo"),
            ("<pre>a\n  b</pre>", "a\n  b"),
            ("<img alt='a > b'>x<script>y</script><!-- z -->", "x"),
            ("1 < 2 & 3 &unknown; &#xd800; <", "1 < 2 & 3 &unknown; &#xd800; <"),
            ("", ""),
        ] {
            assert_eq!(text_of(html), text, "{html}");
        }
    }

    proptest! {
        #[test]
        fn an_escaped_text_comes_back(text in "[^\n\r]{0,40}") {
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            let converted = text_of(&format!("<p>{escaped}</p>"));
            prop_assert_eq!(converted.trim(), text.trim());
        }

        #[test]
        fn any_text_is_accepted(html in "[<>&/!;#\"a-z é🎉-]{0,60}") {
            text_of(&html);
        }
    }
}
