//! The demo text: the almanac of a harbour that does not exist.
//!
//! It lets everything run with no network. The text is not a file but the output of the grammar below, drawn
//! from a seeded stream, so it is the same on every machine (a test pins its checksum) and this page is all of
//! its source. Being generated, it is far easier to predict than anything that people wrote: losses on it show
//! whether a network learns and how methods differ, and compare with no figure of the paper.

use rand_chacha::ChaCha8Rng;

use crate::random::{below, stream};

/// The data set's name.
pub(crate) const NAME: &str = "demo";
/// Size of the text: 200 KiB.
pub(crate) const BYTES: usize = 204_800;
/// Number of distinct bytes in it.
pub(crate) const SYMBOLS: usize = 73;

/// The text, one entry a day from the first of January 1871 on, cut at [`BYTES`].
pub(crate) fn text() -> String {
    let mut rng = stream("demo text", &[]);
    let mut text = String::with_capacity(BYTES + 4096);
    for year in 1871.. {
        for (month, days) in MONTHS {
            for day in 1..=*days {
                text.push_str(&format!("{day} {month} {year}. "));
                expand("day", &mut rng, &mut text);
                if text.len() >= BYTES {
                    text.truncate(BYTES);
                    return text;
                }
            }
        }
    }
    unreachable!("the years do not end")
}

/// Appends one sentence of the grammar's `rule`: an alternative drawn at random, in which every `{rule}` is
/// expanded in turn and every `{a-b}` becomes a number from a to b.
fn expand(rule: &str, rng: &mut ChaCha8Rng, text: &mut String) {
    if let Some((low, high)) = number_range(rule) {
        text.push_str(&(low + below(rng, high - low + 1)).to_string());
        return;
    }
    let alternatives = alternatives(rule).expect("a test holds every rule against the grammar");
    let mut rest = alternatives[below(rng, alternatives.len())];
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let (inner, after) = after
            .split_once('}')
            .expect("a test holds every brace against its partner");
        expand(inner, rng, text);
        rest = after;
    }
    text.push_str(rest);
}

fn number_range(rule: &str) -> Option<(usize, usize)> {
    let (low, high) = rule.split_once('-')?;
    Some((low.parse().ok()?, high.parse().ok()?))
}

fn alternatives(rule: &str) -> Option<&'static [&'static str]> {
    GRAMMAR
        .iter()
        .find(|(name, _)| *name == rule)
        .map(|(_, alternatives)| *alternatives)
}

#[rustfmt::skip]
const MONTHS: &[(&str, u32)] = &[
    ("January", 31), ("February", 28), ("March", 31), ("April", 30), ("May", 31), ("June", 30),
    ("July", 31), ("August", 31), ("September", 30), ("October", 31), ("November", 30), ("December", 31),
];

/// An alternative that stands twice is drawn twice as often.
#[rustfmt::skip]
const GRAMMAR: &[(&str, &[&str])] = &[
    ("day", &[
        "{weather} {tides}\n{report}\n\n",
        "{weather} {report} {report}\n\n",
        "{weather} {report} {report} {remark}\n\n",
        "{weather} {tides}\n{report} {report} {report}\n\n",
        "{weather} {remark}\n\n",
        "{weather} {tides}\n{ledger}\n",
        "{weather} {report}\nA letter for the harbour master: \"{letter}\"\n\n",
        "{weather} {remark}\n{song}\n",
    ]),

    ("weather", &[
        "Wind {wind}, {strength}; {sky}.",
        "Wind {wind}, {strength}, later {wind}; {sky}.",
        "{sight}; wind {wind}, {strength}.",
        "Calm; {sky}.",
        "Glass at {28-30}.{0-9}{0-9} and {trend}; wind {wind}, {strength}.",
    ]),
    ("wind", &[
        "north", "north-east", "east", "south-east", "south", "south-west", "south-west", "west", "west",
        "north-west",
    ]),
    ("strength", &["light", "light", "moderate", "moderate", "fresh", "strong", "a full gale", "hardly to be felt"]),
    ("sky", &[
        "fair", "fair all day", "clear and cold", "overcast", "rain before noon", "rain after dark",
        "showers, with sun between them", "snow on the hills", "thunder far out", "fog until {hour}",
        "high cloud from the {wind}",
    ]),
    ("sight", &["Fog", "Thick fog", "Haze over the bar", "Clear to the islands", "Rain", "Sleet", "A red dawn"]),
    ("trend", &["rising", "falling", "falling fast", "steady"]),
    ("tides", &[
        "High water {1-12}.{0-5}{0-9}, low water {1-12}.{0-5}{0-9}.",
        "High water {1-12}.{0-5}{0-9}, {2-5} fathoms on the bar.",
        "Spring tide, {3-6} fathoms on the bar at {hour}.",
        "Neap tide.",
    ]),
    ("hour", &["noon", "dusk", "daybreak", "midnight", "{2-11} o'clock", "{2-11} o'clock", "half past {2-11}"]),

    ("report", &["{arrival}", "{arrival}", "{departure}", "{departure}", "{mishap}", "{work}", "{people}"]),
    ("arrival", &[
        "The {rig} {ship} came in from {port} with {cargo}.",
        "The {rig} {ship} came in from {port} with {cargo} and {cargo}, {2-40} days out.",
        "At {hour} the {ship}, {master}, made fast at the {quay} with {cargo}.",
        "The {ship} of {port} was sighted at {hour} and crossed the bar on the flood.",
        "Arrived from {port}: the {rig} {ship}, in ballast.",
        "The {ship} put in for {stores}, being bound from {port} to {port}.",
    ]),
    ("departure", &[
        "The {rig} {ship} sailed for {port} with {cargo}.",
        "The {ship} cleared for {port}, {master}, but lies in the roads for want of wind.",
        "Sailed at {hour}: the {ship} for {port}, the {ship} for {port}.",
        "The {ship} went out on the ebb, bound for {port} with {cargo}.",
        "The {ship} waits for {stores} and will not sail before {weekday}.",
    ]),
    ("mishap", &[
        "The {ship} touched on the {shoal} and was got off without harm.",
        "The {ship} lost her {spar} off the {shoal}; it will be made new at {port}.",
        "The {ship} dragged her anchor in the night and fouled the {ship}.",
        "A boat of the {ship} was overset near the {shoal}; all {2-9} men are safe.",
        "Nothing is heard of the {ship}, now {8-60} days out from {port}.",
        "The light on the {shoal} was out from {hour} to {hour}.",
    ]),
    ("work", &[
        "The {quay} is being mended, and {2-20} men were set to it.",
        "Soundings were taken at the {quay}: {2-7} fathoms, {mud}.",
        "The dredger brought up {10-90} tons of {mud}.",
        "A new buoy was laid at the {shoal}.",
        "The crane at the {quay} was tried with {2-9} tons and held.",
        "{10-99} barrels of tar were landed and {10-99} sold.",
    ]),
    ("people", &[
        "{person} was made mate of the {ship}.",
        "{person}, pilot, brought in the {ship} and the {ship}.",
        "{person} asks leave to build a shed behind the {quay}.",
        "{person} and {person} were wed; the ships in harbour dressed with flags.",
        "{person} was fined {2-20} shillings because {fault}.",
        "The widow {surname} let her house to {person}, sailmaker.",
    ]),
    ("fault", &[
        "he left his nets in the fairway", "his boat showed no light", "he sold {goods} without a mark",
        "he quarrelled with {person} at the {quay}", "he threw ballast into the harbour",
    ]),
    ("remark", &[
        "The old men say that {saying}.",
        "It is the rule here that {rule}.",
        "{person} holds that {saying}, and {person} that {saying}.",
        "No ship came and none went.",
        "If the wind goes to the {wind}, the {ship} will sail; if it does not, she will lie here until {weekday}.",
        "Prices at the {quay}: {goods} at {2-90} shillings, {goods} at {2-90}, {goods} at {2-90}.",
        "Whoever finds {find} shall bring it to {person}, who pays {2-12} shillings.",
    ]),
    ("saying", &[
        "a red dawn brings wind from the {wind}", "gulls on the hill mean a gale before {weekday}",
        "a ship that sails on {weekday} comes home late", "the {shoal} moves a cable's length in a winter",
        "rain that begins at {hour} ends at {hour}", "no glass was ever right that hung in the {quay} house",
        "wind from the {wind} is worth {2-9} men at the pumps", "{goods} should never be stowed beside {goods}",
    ]),
    ("rule", &[
        "a ship with {goods} lies outside until she is searched", "the smaller vessel gives way in the fairway",
        "pilots draw lots when two ships come in together", "no fire is lit on board after {hour}",
        "every master reports within {2-6} hours", "ballast is put ashore at the {quay} and nowhere else",
    ]),
    ("find", &["a brass sextant", "an oar marked {ship}", "a grey dog", "a chest without a key", "a chart of the {shoal}"]),

    ("ledger", &[
        "{line}{line}{line}", "{line}{line}{line}{line}", "{line}{line}{line}{line}{line}{line}",
        "{line}{line}{line}{line}{line}{line}{line}{line}",
    ]),
    ("line", &[
        "  in   | {ship} | {port} | {10-990} {unit} {goods}\n",
        "  in   | {ship} | {port} | {10-990} {unit} {goods}\n",
        "  out  | {ship} | {port} | {10-990} {unit} {goods}\n",
        "  out  | {ship} | {port} | {10-990} {unit} {goods}\n",
        "  due  | {ship} | {port} | -\n",
        "  lies | {ship} | {quay} | {goods} (part)\n",
    ]),
    ("letter", &[
        "Sir, {request}. {closing}, {person}",
        "Sir, {request}; {request}. {closing}, {person}",
        "Dear brother, {news}. {news}. {closing}, {person}",
        "Dear mother, {news}. We lie at {port} and load {cargo}; {news}. {closing}, {person}",
        "To the owners of the {ship}: {news}, and {news}. {closing}, {person}",
    ]),
    ("request", &[
        "I beg you to send {stores} to the {quay} before {weekday}", "will you keep a berth for the {ship}",
        "the {ship} owes me {2-90} shillings for {goods}", "I have {cargo} here and no ship to carry it",
        "what is to be done with the {goods} that the {ship} left", "may the {ship} lie at the {quay} until {weekday}",
    ]),
    ("news", &[
        "we had wind from the {wind} for {3-19} days", "the mate is ill and {person} does his work",
        "I am well and wish that you are too", "we lost the {spar} off {port}",
        "there is no price for {goods} at {port}", "the {ship} passed us at {hour} and answered nothing",
        "I shall be home when the {ship} is", "they pay {2-90} shillings for {goods} here",
    ]),
    ("closing", &["Your servant", "Your obedient servant", "In haste", "With love", "God keep you all"]),
    ("song", &[
        "  The {wind} wind blows, the {wind} wind blows,\n  And the {ship} goes where the {wind} wind goes.\n",
        "  Oh, what will you bring me from {port} town?\n  A pound of {goods} and a {colour} gown.\n",
        "  {2-9} days to {port} and {2-9} days back,\n  With {goods} in the hold and the topsail slack.\n",
    ]),

    ("rig", &["brig", "brig", "schooner", "schooner", "ketch", "barque", "sloop", "lugger", "steamer"]),
    ("ship", &[
        "Halvora", "Grey Margaret", "Patience", "Two Sisters", "Osprey", "Merle", "Lantern", "Queen Adela",
        "Tamsin", "Good Intent", "Perrault", "Vigil", "Zephyr", "Juniper", "Corvina", "Young Matthias",
        "Elsinde", "Harrow", "Kestrel", "Fair Winter", "Undaunted", "Blythe", "Ivo", "Northern Dove",
    ]),
    ("port", &[
        "Tarnholm", "Vessby", "Kirkwater", "Port Amity", "Lowmouth", "Saltmere", "Ostrava Sound", "Quill Haven",
        "Brennick", "Dunmarrow", "Farrow Bay", "Great Ullin", "Jessamy", "Marrowgate", "Whin Island", "Yarrel",
    ]),
    ("quay", &["north quay", "coal quay", "fish quay", "long mole", "customs stairs", "old basin"]),
    ("shoal", &["Shingles", "Maiden Rock", "Black Ledge", "Oxen", "Inner Bar", "Widow's Bank"]),
    ("spar", &["foremast", "topmast", "bowsprit", "rudder", "best anchor", "mizzen boom"]),
    ("mud", &["mud", "sand", "blue clay", "shell and gravel"]),
    ("master", &["master {person}", "{person} master", "Captain {surname}"]),
    ("person", &["{forename} {surname}", "{forename} {surname}", "{forename} {surname} the younger"]),
    ("forename", &[
        "Anna", "Bartel", "Clement", "Dorothy", "Edwin", "Frances", "Gideon", "Hester", "Isaac", "Joan", "Kaspar",
        "Lydia", "Martin", "Nell", "Oswald", "Peter", "Ruth", "Simon", "Thomas", "Ursula", "Walter",
    ]),
    ("surname", &["{onset}{middle}{ending}", "{onset}{ending}"]),
    ("onset", &["Ash", "Bar", "Cor", "Dun", "Ell", "Fen", "Gar", "Hol", "Lam", "Mar", "Nor", "Pen", "Ram", "Tre", "Wal"]),
    ("middle", &["der", "ing", "ber", "wen", "la", "mi", "ri"]),
    ("ending", &["by", "croft", "ford", "ley", "man", "rick", "sen", "stow", "ton", "worth"]),
    ("cargo", &[
        "{10-990} {unit} {goods}", "{10-990} {unit} {goods}", "{2-60} passengers", "{goods}", "{goods} and mail",
        "{2-30} head of cattle",
    ]),
    ("unit", &["barrels of", "casks of", "tons of", "sacks of", "bales of", "crates of"]),
    ("goods", &[
        "salt", "herring", "coal", "timber", "rope", "tar", "wool", "barley", "oats", "flax", "oranges", "tin",
        "slate", "lamp oil", "hides", "tea", "sailcloth", "candles",
    ]),
    ("stores", &["water", "bread and water", "a new cable", "{2-20} fathoms of rope", "a pilot", "sailcloth"]),
    ("weekday", &["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]),
    ("colour", &["blue", "green", "russet", "scarlet", "yellow"]),
];

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::Alphabet;

    #[test]
    fn the_text_is_the_same_on_every_machine() {
        let text = text();
        let sum: String = Sha256::digest(&text)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(
            sum,
            "d5ed274f8b5c404bd5b85320b08261124af6cab30d719641ee59a189ef6c0399"
        );
        assert_eq!(text.len(), BYTES);
        assert_eq!(Alphabet::of(&[text.as_bytes()]).len(), SYMBOLS);
        assert!(text.starts_with("1 January 1871. "));
    }

    /// Every rule that an alternative names is there, is reached from `day`, and no rule stands twice.
    #[test]
    fn the_grammar_is_whole() {
        let mut reached = vec!["day"];
        let mut next = 0;
        while let Some(&rule) = reached.get(next) {
            next += 1;
            for alternative in alternatives(rule).unwrap_or_else(|| panic!("no rule {rule}")) {
                assert!(alternative.is_ascii());
                let mut pieces = alternative.split('{');
                assert!(!pieces.next().unwrap().contains('}'), "{alternative}");
                for piece in pieces {
                    let (inner, after) = piece
                        .split_once('}')
                        .unwrap_or_else(|| panic!("{alternative}"));
                    assert!(!after.contains('}'), "{alternative}");
                    match number_range(inner) {
                        Some((low, high)) => assert!(low < high, "{alternative}"),
                        None if reached.contains(&inner) => {}
                        None => reached.push(inner),
                    }
                }
            }
        }
        let mut all: Vec<_> = GRAMMAR.iter().map(|(rule, _)| *rule).collect();
        all.sort_unstable();
        reached.sort_unstable();
        assert_eq!(all, reached);
    }
}
