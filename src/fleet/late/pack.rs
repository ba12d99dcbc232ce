//! The format in which late changes are packed: many of them in a few kilobytes, appended one at a time. Pure.
//!
//! A pack is a sequence of records. A record gives a row's time as a difference from the record before, and each key
//! (source, host, device) as a number in a dictionary once the pack has spelled it out. A *segment* is a part of a pack
//! that refers to nothing before it, so it can be cut off or copied elsewhere byte by byte: a subtransaction begins one.

use crate::fleet::clock::{HOUR, Timestamp};
use foldhash::fast::FixedState;
use std::hash::{BuildHasher, Hasher};
use std::ops::DerefMut;

/// What a pack is appended to.
pub trait Buffer: DerefMut<Target = [u8]> {
    /// Appends bytes.
    fn append(&mut self, bytes: &[u8]);
}

impl Buffer for Vec<u8> {
    fn append(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A key as it is stored in its row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Key<'a> {
    /// SQL NULL.
    #[default]
    Null,
    /// A text's bytes.
    Text(&'a [u8]),
    /// The bytes of a uuid.
    Uuid(&'a [u8; 16]),
    /// A whole number.
    Int(i64),
}

impl Key<'_> {
    /// The key as text; bytes that are not UTF-8, which no sealed database holds, are replaced.
    pub fn text(&self) -> String {
        match self {
            Key::Null => String::new(),
            Key::Text(text) => String::from_utf8_lossy(text).into_owned(),
            Key::Uuid(uuid) => uuid::Uuid::from_bytes(**uuid).to_string(),
            Key::Int(number) => number.to_string(),
        }
    }

    fn size(&self) -> usize {
        match self {
            Key::Null => 1,
            Key::Text(text) => text.len() + 1 + LONGEST_NUMBER,
            Key::Uuid(_) => 17,
            Key::Int(_) => 1 + LONGEST_NUMBER,
        }
    }
}

/// A row that came (`came`) or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowChange<K> {
    /// OID of the table that holds the row.
    pub relation: u32,
    /// The row's entry time.
    pub time: Timestamp,
    /// Whether it came rather than went.
    pub came: bool,
    /// Its status class 1 to 5; 0 for a status outside of them, and for none.
    pub class: u8,
    /// Its source.
    pub source: K,
    /// Its host.
    pub host: K,
    /// Its device.
    pub device: K,
}

impl RowChange<Key<'_>> {
    /// How many bytes it takes at most.
    pub fn size(&self) -> usize {
        1 + RELATION_SIZE + 1 + LONGEST_NUMBER + self.source.size() + self.host.size() + self.device.size()
    }
}

/// How many rows of one hour came, less those that went: all that is kept of rows older than every window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourChange {
    /// OID of the table that holds the rows.
    pub relation: u32,
    /// The beginning of the hour, a whole number of hours since 2000-01-01 00:00 UTC; `i64::MIN` for rows without a time.
    pub hour: Timestamp,
    /// Rows that came, less those that went.
    pub n: i64,
}

impl HourChange {
    /// How many bytes it takes at most.
    pub const SIZE: usize = 1 + RELATION_SIZE + 1 + 8 + 8;
}

/// The beginning of the hour that `time` lies in.
pub fn hour_of(time: Timestamp) -> Timestamp {
    match time {
        Timestamp::MIN | Timestamp::MAX => time,
        time => time.div_euclid(HOUR).saturating_mul(HOUR),
    }
}

// Records begin with a byte: what it is in the lower half, a row's status class in the upper.
const SEGMENT: u8 = 0;
const RELATION: u8 = 1;
const CAME: u8 = 2;
const WENT: u8 = 3;
const HOURLY: u8 = 4;

const RELATION_SIZE: usize = 5;

/// Of a number of 64 bits in groups of seven.
const LONGEST_NUMBER: usize = 10;

// Keys begin with a number: 0 for null, one of these for a key that is spelled out, else its place in the dictionary.
const TEXT: u64 = 1;
const UUID: u64 = 2;
const INT: u64 = 3;
const FIRST_PLACE: u64 = 4;

/// How many keys of a segment an encoder looks for; others are spelled out again. A key may be in either slot of a pair.
const PAIRS: usize = 2048;

/// Where a key was spelled out.
#[derive(Clone, Copy)]
struct Slot {
    /// The segment, by its number; 0 for none.
    segment: u32,
    /// The key's place in the dictionary.
    place: u32,
    at: u32,
    /// A longer key is spelled out each time.
    length: u16,
    kind: u8,
}

const EMPTY: Slot = Slot { segment: 0, place: 0, at: 0, length: 0, kind: 0 };

/// Appends records. It remembers what the present segment has spelled out.
pub struct Encoder {
    segment: u32,
    slots: [[Slot; 2]; PAIRS],
    places: u32,
    relation: u32,
    time: Timestamp,
    /// The last record for an hour, and where its number is, as long as the segment has it last.
    hour: Option<(HourChange, usize)>,
}

impl Encoder {
    /// An encoder; a pack must be begun. All of it is zero, so that it costs a process nothing before it is used.
    pub const fn new() -> Self {
        Self { segment: 0, slots: [[EMPTY; 2]; PAIRS], places: 0, relation: 0, time: 0, hour: None }
    }

    /// Forgets everything: what follows is a new pack.
    pub fn begin_pack(&mut self) {
        self.segment = self.segment.wrapping_add(1);
        if self.segment == 0 {
            self.slots.fill([EMPTY; 2]);
            self.segment = 1;
        }
        (self.places, self.relation, self.time, self.hour) = (0, 0, 0, None);
    }

    /// Begins a segment within a pack.
    pub fn begin_segment(&mut self, pack: &mut impl Buffer) {
        self.begin_pack();
        pack.append(&[SEGMENT]);
    }

    /// Appends a row.
    pub fn row(&mut self, pack: &mut impl Buffer, row: &RowChange<Key>) {
        self.name_relation(pack, row.relation);
        self.hour = None;
        let mut small = Small::new();
        small.byte(if row.came { CAME } else { WENT } | row.class << 4);
        small.number(zigzag(row.time.wrapping_sub(self.time)));
        self.time = row.time;
        for key in [row.source, row.host, row.device] {
            self.key(pack, &mut small, key);
        }
        pack.append(small.bytes());
    }

    /// Appends rows of an hour, or adds them to the record before, if that is of the same hour.
    pub fn hour(&mut self, pack: &mut impl Buffer, change: HourChange) {
        if let Some((last, at)) = &mut self.hour
            && (last.relation, last.hour) == (change.relation, change.hour)
        {
            last.n += change.n;
            pack[*at..*at + 8].copy_from_slice(&last.n.to_le_bytes());
            return;
        }
        self.name_relation(pack, change.relation);
        pack.append(&[HOURLY]);
        pack.append(&change.hour.to_le_bytes());
        self.hour = Some((change, pack.len()));
        pack.append(&change.n.to_le_bytes());
    }

    fn name_relation(&mut self, pack: &mut impl Buffer, relation: u32) {
        if self.relation != relation {
            self.relation = relation;
            let [a, b, c, d] = relation.to_le_bytes();
            pack.append(&[RELATION, a, b, c, d]);
        }
    }

    fn key(&mut self, pack: &mut impl Buffer, small: &mut Small, key: Key) {
        let number = if let Key::Int(number) = key { number.to_le_bytes() } else { [0; 8] };
        let (kind, bytes): (u64, &[u8]) = match key {
            Key::Null => return small.number(0),
            Key::Text(text) => (TEXT, text),
            Key::Uuid(uuid) => (UUID, uuid),
            Key::Int(_) => (INT, &number),
        };
        let mut hasher = FixedState::default().build_hasher();
        hasher.write(bytes);
        let pair = &mut self.slots[hasher.finish() as usize % PAIRS];
        // A slot of the present segment points into the pack: whatever cuts the pack begins another segment.
        let is_known = |slot: &&Slot| {
            let (at, length) = (slot.at as usize, usize::from(slot.length));
            slot.segment == self.segment
                && u64::from(slot.kind) == kind
                && pack.get(at..at + length) == Some(bytes)
        };
        if let Some(slot) = pair.iter().find(is_known) {
            return small.number(FIRST_PLACE + u64::from(slot.place));
        }
        small.number(kind);
        if kind == TEXT {
            small.number(bytes.len() as u64);
        }
        pack.append(small.bytes());
        small.clear();
        if let Ok(length) = u16::try_from(bytes.len()) {
            // The one that was spelled out longer ago goes.
            let age = |slot: &Slot| if slot.segment == self.segment { slot.place + 1 } else { 0 };
            let place = usize::from(age(&pair[1]) < age(&pair[0]));
            let (segment, place_in_dictionary, at) = (self.segment, self.places, pack.len() as u32);
            pair[place] = Slot { segment, place: place_in_dictionary, at, length, kind: kind as u8 };
        }
        self.places += 1;
        pack.append(bytes);
    }
}

/// A few bytes on the stack: the start of a record, until a key is spelled out.
struct Small {
    bytes: [u8; 64],
    length: usize,
}

impl Small {
    fn new() -> Self {
        Self { bytes: [0; 64], length: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn clear(&mut self) {
        self.length = 0;
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.length] = byte;
        self.length += 1;
    }

    /// In groups of seven bits, the lowest first.
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8);
    }
}

/// Numbers near zero, of either sign, become small ones.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// A change as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A row; its keys are places in [`Decoder::keys`], `None` for null.
    Row(RowChange<Option<usize>>),
    /// Rows of an hour.
    Hour(HourChange),
}

/// These bytes are not a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a pack.
pub struct Decoder<'a> {
    rest: &'a [u8],
    keys: Vec<Key<'a>>,
    /// Where the present segment's part of `keys` begins.
    first: usize,
    relation: u32,
    time: Timestamp,
}

impl<'a> Decoder<'a> {
    /// Reads these bytes.
    pub fn new(pack: &'a [u8]) -> Self {
        Self { rest: pack, keys: Vec::new(), first: 0, relation: 0, time: 0 }
    }

    /// Every key that was spelled out so far.
    pub fn keys(&self) -> &[Key<'a>] {
        &self.keys
    }

    /// The next change; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Change>, Malformed> {
        loop {
            let Some((tag, rest)) = self.rest.split_first() else {
                return Ok(None);
            };
            self.rest = rest;
            match tag & 0x0F {
                SEGMENT => (self.first, self.relation, self.time) = (self.keys.len(), 0, 0),
                RELATION => self.relation = u32::from_le_bytes(self.array()?),
                came @ (CAME | WENT) => {
                    self.time = self.time.wrapping_add(unzigzag(self.number()?));
                    return Ok(Some(Change::Row(RowChange {
                        relation: self.relation,
                        time: self.time,
                        came: came == CAME,
                        class: tag >> 4,
                        source: self.key()?,
                        host: self.key()?,
                        device: self.key()?,
                    })));
                }
                HOURLY => {
                    let (hour, n) = (i64::from_le_bytes(self.array()?), i64::from_le_bytes(self.array()?));
                    return Ok(Some(Change::Hour(HourChange { relation: self.relation, hour, n })));
                }
                _ => return Err(Malformed),
            }
        }
    }

    fn key(&mut self) -> Result<Option<usize>, Malformed> {
        let key = match self.number()? {
            0 => return Ok(None),
            TEXT => {
                let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
                let (text, rest) = self.rest.split_at_checked(length).ok_or(Malformed)?;
                self.rest = rest;
                Key::Text(text)
            }
            UUID => {
                let (uuid, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
                self.rest = rest;
                Key::Uuid(uuid)
            }
            INT => Key::Int(i64::from_le_bytes(self.array()?)),
            place => {
                let place = usize::try_from(place - FIRST_PLACE).map_err(|_| Malformed)? + self.first;
                return if place < self.keys.len() { Ok(Some(place)) } else { Err(Malformed) };
            }
        };
        self.keys.push(key);
        Ok(Some(self.keys.len() - 1))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0_u64;
        for place in 0..LONGEST_NUMBER {
            let (byte, rest) = self.rest.split_first().ok_or(Malformed)?;
            self.rest = rest;
            number |= u64::from(byte & 0x7F) << (7 * place);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (array, rest) = self.rest.split_first_chunk().ok_or(Malformed)?;
        self.rest = rest;
        Ok(*array)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoder() -> Box<Encoder> {
        let mut encoder = Box::new(Encoder::new());
        encoder.begin_pack();
        encoder
    }

    #[derive(Clone, Debug, PartialEq)]
    enum Owned {
        Null,
        Text(Vec<u8>),
        Uuid([u8; 16]),
        Int(i64),
    }

    impl Owned {
        fn key(&self) -> Key<'_> {
            match self {
                Owned::Null => Key::Null,
                Owned::Text(text) => Key::Text(text),
                Owned::Uuid(uuid) => Key::Uuid(uuid),
                Owned::Int(int) => Key::Int(*int),
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Row(u32, i64, bool, u8, [Owned; 3]),
        Hour(u32, i64, i64),
        Segment,
    }

    fn key() -> impl Strategy<Value = Owned> {
        prop_oneof![
            Just(Owned::Null),
            "[a-c]{0,2}".prop_map(|text| Owned::Text(text.into_bytes())),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Owned::Text),
            (0..4_u8).prop_map(|n| Owned::Uuid([n; 16])),
            any::<i64>().prop_map(Owned::Int),
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let time = prop_oneof![any::<i64>(), 0..1_000_000_i64];
        prop_oneof![
            6 => (1..4_u32, time.clone(), any::<bool>(), 0..6_u8, [key(), key(), key()])
                .prop_map(|(relation, time, came, class, keys)| Step::Row(relation, time, came, class, keys)),
            3 => (1..3_u32, 0..3_i64, -5..5_i64).prop_map(|(relation, hour, n)| Step::Hour(relation, hour * HOUR, n)),
            1 => Just(Step::Segment),
        ]
    }

    /// Table, hour, and how many rows.
    type Hours = Vec<(u32, i64, i64)>;

    /// What a pack says: each row by itself, hours added up.
    fn read(pack: &[u8]) -> Result<(Vec<String>, Hours), Malformed> {
        let mut decoder = Decoder::new(pack);
        let (mut rows, mut hours): (Vec<String>, Hours) = (Vec::new(), Vec::new());
        while let Some(change) = decoder.next()? {
            match change {
                Change::Row(row) => {
                    let keys = [row.source, row.host, row.device]
                        .map(|place| place.map_or(Key::Null, |place| decoder.keys()[place]));
                    rows.push(format!("{} {} {} {} {keys:?}", row.relation, row.time, row.came, row.class));
                }
                Change::Hour(hour) => hours.push((hour.relation, hour.hour, hour.n)),
            }
        }
        Ok((rows, added_up(hours)))
    }

    fn added_up(mut hours: Hours) -> Hours {
        hours.sort_unstable();
        hours.dedup_by(|next, kept| {
            let same = (next.0, next.1) == (kept.0, kept.1);
            if same {
                kept.2 += next.2;
            }
            same
        });
        hours
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read(steps in proptest::collection::vec(step(), 0..80)) {
            let (mut encoder, mut pack) = (encoder(), Vec::new());
            let (mut rows, mut hours) = (Vec::new(), Vec::new());
            let mut segments = vec![(0, 0, hours.clone())];
            for step in &steps {
                match step {
                    Step::Row(relation, time, came, class, [source, host, device]) => {
                        let (source, host, device) = (source.key(), host.key(), device.key());
                        let (relation, time, came, class) = (*relation, *time, *came, *class);
                        let row = RowChange { relation, time, came, class, source, host, device };
                        let before = pack.len();
                        encoder.row(&mut pack, &row);
                        prop_assert!(pack.len() - before <= row.size());
                        rows.push(format!("{relation} {time} {came} {class} {:?}", [source, host, device]));
                    }
                    Step::Hour(relation, hour, n) => {
                        let before = pack.len();
                        encoder.hour(&mut pack, HourChange { relation: *relation, hour: *hour, n: *n });
                        prop_assert!(pack.len() - before <= HourChange::SIZE);
                        hours.push((*relation, *hour, *n));
                    }
                    Step::Segment => {
                        segments.push((pack.len(), rows.len(), hours.clone()));
                        encoder.begin_segment(&mut pack);
                    }
                }
            }
            prop_assert_eq!(read(&pack), Ok((rows.clone(), added_up(hours.clone()))));
            // Cut where a segment begins, both parts can be read by themselves.
            for (at, before, hours_before) in segments {
                prop_assert_eq!(read(&pack[..at]), Ok((rows[..before].to_vec(), added_up(hours_before.clone()))));
                let hours_after = hours[hours_before.len()..].to_vec();
                prop_assert_eq!(read(&pack[at..]), Ok((rows[before..].to_vec(), added_up(hours_after))));
            }
        }

        #[test]
        fn no_bytes_bring_the_decoder_down(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
        }
    }

    #[test]
    fn a_batch_of_a_fleet_takes_few_bytes_a_row() {
        let (mut encoder, mut pack) = (encoder(), Vec::new());
        for n in 0..100_u8 {
            let host = format!("host{}.example.com", n % 10);
            let row = RowChange {
                relation: 1,
                time: 800_000_000_000_000 + i64::from(n) * 7,
                came: true,
                class: 2,
                source: Key::Text(b"vpn"),
                host: Key::Text(host.as_bytes()),
                device: Key::Uuid(&[n % 5; 16]),
            };
            encoder.row(&mut pack, &row);
        }
        assert!(pack.len() < 900, "{} bytes", pack.len());
    }

    #[test]
    fn hours_begin_at_whole_ones() {
        assert_eq!([-1, 0, HOUR - 1, HOUR].map(hour_of), [-HOUR, 0, 0, HOUR]);
        assert_eq!(hour_of(i64::MIN), i64::MIN);
    }
}
