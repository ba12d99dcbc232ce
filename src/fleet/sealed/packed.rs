//! How the counts of every key are kept: a difference is written at each tick, so it should be short. Pure.

use super::counts::{Counts, KeyCounts};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Counts by key. Most devices go by a uuid, whose text is more than twice as long as its bytes.
#[derive(Serialize, Deserialize)]
struct Packed<'a> {
    uuids: Vec<([u8; 16], i64)>,
    #[serde(borrow)]
    texts: Vec<(&'a str, i64)>,
}

/// The bytes of a key that reads as a uuid does when PostgreSQL or [`Uuid`] writes it.
fn uuid_of(key: &str) -> Option<[u8; 16]> {
    let uuid = Uuid::try_parse(key).ok()?;
    let mut text = Uuid::encode_buffer();
    (uuid.hyphenated().encode_lower(&mut text) == key).then(|| uuid.into_bytes())
}

fn packed(counts: &Counts) -> Packed<'_> {
    let mut packed = Packed { uuids: Vec::new(), texts: Vec::new() };
    for (key, count) in counts {
        match uuid_of(key) {
            Some(uuid) => packed.uuids.push((uuid, *count)),
            None => packed.texts.push((key, *count)),
        }
    }
    packed
}

fn unpacked(packed: Packed) -> Counts {
    let uuids = packed.uuids.into_iter().map(|(uuid, count)| (Uuid::from_bytes(uuid).to_string(), count));
    uuids.chain(packed.texts.into_iter().map(|(key, count)| (key.to_owned(), count))).collect()
}

/// The bytes that [`unpack`] reads.
pub fn pack(keys: &KeyCounts) -> Vec<u8> {
    match postcard::to_allocvec(&(packed(&keys.hosts), packed(&keys.devices))) {
        Ok(bytes) => bytes,
        // Strings and numbers have no value that postcard refuses.
        Err(_) => unreachable!("plain lists can always be written"),
    }
}

/// What was packed; `None` when these bytes were written by somebody else.
pub fn unpack(bytes: &[u8]) -> Option<KeyCounts> {
    let (hosts, devices) = postcard::from_bytes::<(Packed, Packed)>(bytes).ok()?;
    Some(KeyCounts { hosts: unpacked(hosts), devices: unpacked(devices) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "0b0ff1ce-0123-4567-89ab-cdef01234567";

    fn keys() -> impl Strategy<Value = Counts> {
        let key = prop_oneof![
            any::<u128>().prop_map(|number| Uuid::from_u128(number).to_string()),
            any::<u128>().prop_map(|number| Uuid::from_u128(number).simple().to_string()),
            any::<String>(),
            // All but a uuid.
            "[0-9a-fA-F]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        ];
        proptest::collection::hash_map(key, any::<i64>(), 0..20)
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(hosts in keys(), devices in keys()) {
            let keys = KeyCounts { hosts, devices };
            prop_assert_eq!(unpack(&pack(&keys)), Some(keys));
        }
    }

    #[test]
    fn a_uuid_is_kept_as_its_bytes() {
        let packed_size = |key: &str| {
            pack(&KeyCounts { devices: Counts::from([(key.to_owned(), 1)]), ..KeyCounts::default() }).len()
        };
        assert_eq!(packed_size(UUID) + 21, packed_size(&UUID.to_uppercase()));
    }

    #[test]
    fn other_bytes_are_told_apart() {
        assert_eq!(unpack(&[1, 2, 3]), None);
    }
}
