//! Generates texts of posts from parts of sentences. They contain characters that careless code
//! handles wrongly: emoji, newlines, quotes and markup.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::handles::handle;
use super::{RandomStream, random};

const OPENERS: [&str; 16] = [
    "Finally",
    "Small win:",
    "Note to self:",
    "Hot take:",
    "Today I learned that",
    "Still thinking about how",
    "Reminder:",
    "Honestly,",
    "Unpopular opinion:",
    "Good news:",
    "Well,",
    "After three tries",
    "Nobody tells you that",
    "It turns out",
    "Two years ago I said that",
    "My neighbour insists that",
];

const SUBJECTS: [&str; 20] = [
    "the sourdough",
    "our garden",
    "the night train to the coast",
    "this keyboard",
    "the new tram line",
    "my old bicycle",
    "the choir rehearsal",
    "the heat pump",
    "the library on the corner",
    "our Tuesday release",
    "the team's mascot",
    "the compost heap",
    "a well-named variable",
    "the first tomato of the year",
    "the ferry",
    "that one flaky test",
    "the kids' football match",
    "a second-hand piano",
    "the hill behind the house",
    "the allotment's only apple tree",
];

const VERBS: [&str; 18] = [
    "works better than expected",
    "needed nothing but patience",
    "is on time again",
    "survived the storm",
    "smells of rain",
    "deserves more credit",
    "made everyone smile",
    "costs half of what I feared",
    "is worth the walk",
    "broke right before lunch",
    "is finally finished",
    "beats any gadget",
    "taught me to ask sooner",
    "looks different in the evening light",
    "grew overnight",
    "sounds wonderful in the stairwell",
    "has a queue around the block",
    "was never the real problem",
];

const TAILS: [&str; 20] = [
    "",
    "",
    "",
    "",
    " \u{1f389}",
    " \u{1f345}\u{1f345}\u{1f345}",
    " \u{1f6b2}\u{1f4a8}",
    " \u{2764}\u{fe0f}",
    " \u{1f469}\u{200d}\u{1f4bb}",
    " \u{1f1f3}\u{1f1f1}",
    " Who else?",
    " Photos to follow.",
    " Ask me how I know…",
    " 10/10, would do it again.",
    "\n\nMore on that tomorrow.",
    "\n- slowly\n- then all at once",
    " As grandma said: \"measure twice, cut once\".",
    " It's <em>that</em> good.",
    " (5 > 3 && 3 < 5, as they say)",
    " Grüße aus Zürich, 東京 & São Paulo!",
];

const TOPICS: [&str; 14] = [
    "garden", "bikes", "rust", "baking", "trains", "music", "football", "books", "coffee", "maps",
    "weather", "birds", "repair", "cities",
];

/// Generates the texts of posts, always the same texts in the same order.
pub(super) struct TextGenerator {
    random: StdRng,
}

impl TextGenerator {
    pub(super) fn new() -> Self {
        Self { random: random(RandomStream::Text) }
    }

    /// The next text, for a network with this many users.
    pub(super) fn text(&mut self, users: u32) -> String {
        let mut text = String::new();
        if self.random.random_bool(0.12) {
            text.push_str(&format!("@{} ", handle(self.random.random_range(1..=users))));
        }
        self.sentence(&mut text);
        while text.len() < 320 && self.random.random_bool(0.35) {
            text.push(' ');
            self.sentence(&mut text);
        }
        if self.random.random_bool(0.25) {
            text.push_str(&format!(" #{}", self.pick(&TOPICS)));
        }
        if self.random.random_bool(0.1) {
            let page = self.random.random_range(1..10_000);
            text.push_str(&format!(" https://example.org/{}/{page}?a=1&b=2", self.pick(&TOPICS)));
        }
        text
    }

    fn sentence(&mut self, text: &mut String) {
        let (opener, subject) = (self.pick(&OPENERS), self.pick(&SUBJECTS));
        let (verb, tail) = (self.pick(&VERBS), self.pick(&TAILS));
        let stop =
            if tail.starts_with([' ', '\n']) && self.random.random_bool(0.5) { "" } else { "." };
        text.push_str(&format!("{opener} {subject} {verb}{stop}{tail}"));
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from.choose(&mut self.random).copied().unwrap_or_default()
    }
}
