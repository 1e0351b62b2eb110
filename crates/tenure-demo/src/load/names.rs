//! Where the demo's keys are. Each run has a prefix of its own, so that it can share a cluster with earlier ones.

use crate::limits::KEYS_PER_LANE;

/// The keys of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    root: String,
}

impl Names {
    /// A run's keys, under `demo/RUN/`.
    pub fn new(run: u32) -> Self {
        Self { root: format!("demo/{run:08x}/") }
    }

    /// Everything of this run.
    pub fn root(&self) -> &str {
        &self.root
    }

    pub fn services(&self) -> String {
        format!("{}services/", self.root)
    }

    pub fn service(&self, name: &str) -> String {
        format!("{}services/{name}", self.root)
    }

    /// The name that every contender's key begins with, as in etcd's recipe.
    pub fn lock(&self) -> String {
        format!("{}lock/", self.root)
    }

    /// A contender's key: the lock's name and the contender's lease.
    pub fn place(&self, lease: i64) -> String {
        format!("{}lock/{lease:x}", self.root)
    }

    pub fn writes(&self) -> String {
        format!("{}writes/", self.root)
    }

    /// The key of a lane's write: keys are written in turn.
    pub fn write(&self, lane: usize, number: u32) -> String {
        format!("{}writes/{lane}/{:02}", self.root, number % KEYS_PER_LANE)
    }

    /// Its value.
    pub fn value(lane: usize, number: u32) -> String {
        format!("write {number} of lane {lane}")
    }

    /// Which write made this value of this key; nothing if none of the demo's did.
    pub fn write_of(&self, key: &str, value: &str) -> Option<(usize, u32)> {
        let (number, lane) = value.strip_prefix("write ")?.split_once(" of lane ")?;
        let (lane, number) = (lane.parse().ok()?, number.parse().ok()?);
        (self.write(lane, number) == key && Self::value(lane, number) == value).then_some((lane, number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_known_by_its_key_and_value() {
        let names = Names::new(0xabc);
        let key = names.write(3, 57);
        assert_eq!(key, "demo/00000abc/writes/3/07");
        assert_eq!(names.write_of(&key, &Names::value(3, 57)), Some((3, 57)));
        assert_eq!(names.write_of(&key, &Names::value(3, 58)), None, "that one belongs to another key");
        assert_eq!(names.write_of(&key, "write 057 of lane 3"), None);
        assert_eq!(names.write_of(&key, ""), None);
    }

    #[test]
    fn a_place_in_the_queue_is_named_by_the_lease_in_hexadecimal() {
        assert_eq!(Names::new(1).place(0x694d_8fa2), "demo/00000001/lock/694d8fa2");
    }
}
