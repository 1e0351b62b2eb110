//! Which of many key ranges hold a key: a search tree of intervals in which every node knows how far its subtree reaches.
//!
//! A treap: ordered by the intervals' starts, balanced by random priorities, which clients cannot aim at. Equal intervals
//! share a node, since thousands of watchers of one prefix are the normal case. Nodes lie in one vector and name each
//! other by place; a removed node's place is used again. Finding costs O(log n + nodes found), changing O(log n).

use std::cmp::Ordering;

use bytes::Bytes;

use super::members::Members;

/// Where an interval ends.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// Before this key.
    Before(Bytes),
    /// Nowhere.
    Unbounded,
}

impl End {
    fn is_beyond(&self, key: &[u8]) -> bool {
        match self {
            End::Before(end) => key < &end[..],
            End::Unbounded => true,
        }
    }
}

/// A node's place; [`NOWHERE`] for none.
type Place = u32;
const NOWHERE: Place = Place::MAX;

#[derive(Debug)]
struct Node<M> {
    start: Bytes,
    end: End,
    members: Members<M>,
    /// The farthest end of this node and all below it.
    reach: End,
    priority: u64,
    left: Place,
    right: Place,
}

/// See the module's header. `M` is what the intervals belong to.
#[derive(Debug)]
pub(super) struct IntervalTree<M> {
    nodes: Vec<Node<M>>,
    free: Vec<Place>,
    root: Place,
    /// The state of a xorshift generator; never 0.
    random: u64,
}

impl<M> IntervalTree<M> {
    /// An empty tree whose shape follows from `seed`, which nobody outside should know.
    pub(super) fn new(seed: u64) -> IntervalTree<M> {
        IntervalTree { nodes: Vec::new(), free: Vec::new(), root: NOWHERE, random: seed | 1 }
    }

    /// The members of an interval, to be changed; the interval is put in if it is not there.
    pub(super) fn members_mut(&mut self, start: &Bytes, end: &End) -> &mut Members<M> {
        let place = self.find(start, end).unwrap_or_else(|| {
            let place = self.allocate(start.clone(), end.clone());
            self.root = self.insert(self.root, place);
            place
        });
        &mut self.nodes[place as usize].members
    }

    /// Takes an interval out if it has no members left.
    pub(super) fn prune(&mut self, start: &Bytes, end: &End) {
        let Some(place) = self.find(start, end) else { return };
        if self.nodes[place as usize].members.is_empty() {
            self.root = self.remove(self.root, start, end);
            let node = &mut self.nodes[place as usize];
            // Keys can be large: a free place must not keep them.
            (node.start, node.end, node.reach) = (Bytes::new(), End::Unbounded, End::Unbounded);
            node.members = Members::new();
            self.free.push(place);
        }
    }

    /// Visits the members of every interval that holds `key`.
    pub(super) fn visit(&self, key: &[u8], visit: &mut impl FnMut(&Members<M>)) {
        self.visit_below(self.root, key, visit);
    }

    /// How many different intervals there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.nodes.len() - self.free.len()
    }

    fn visit_below(&self, place: Place, key: &[u8], visit: &mut impl FnMut(&Members<M>)) {
        let Some(node) = self.nodes.get(place as usize) else { return };
        if !node.reach.is_beyond(key) {
            return;
        }
        self.visit_below(node.left, key, visit);
        if node.start <= key {
            if node.end.is_beyond(key) {
                visit(&node.members);
            }
            self.visit_below(node.right, key, visit);
        }
    }

    fn find(&self, start: &Bytes, end: &End) -> Option<Place> {
        let mut place = self.root;
        while let Some(node) = self.nodes.get(place as usize) {
            match (start, end).cmp(&(&node.start, &node.end)) {
                Ordering::Less => place = node.left,
                Ordering::Equal => return Some(place),
                Ordering::Greater => place = node.right,
            }
        }
        None
    }

    fn allocate(&mut self, start: Bytes, end: End) -> Place {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let node = Node {
            start,
            reach: end.clone(),
            end,
            members: Members::new(),
            priority: self.random,
            left: NOWHERE,
            right: NOWHERE,
        };
        if let Some(place) = self.free.pop() {
            self.nodes[place as usize] = node;
            return place;
        }
        let place = Place::try_from(self.nodes.len()).unwrap_or(NOWHERE);
        assert!(place != NOWHERE, "watchers are limited to far fewer than there are places");
        self.nodes.push(node);
        place
    }

    /// Puts a single node, whose interval is not there, below `at`; returns the new top.
    fn insert(&mut self, at: Place, new: Place) -> Place {
        if at == NOWHERE {
            return new;
        }
        if self.nodes[new as usize].priority > self.nodes[at as usize].priority {
            let (left, right) = self.split(at, new);
            self.nodes[new as usize].left = left;
            self.nodes[new as usize].right = right;
            self.update_reach(new);
            return new;
        }
        if self.is_before(new, at) {
            self.nodes[at as usize].left = self.insert(self.nodes[at as usize].left, new);
        } else {
            self.nodes[at as usize].right = self.insert(self.nodes[at as usize].right, new);
        }
        self.update_reach(at);
        at
    }

    /// Divides what is below `at` into what is before the interval of `by` and what is after it.
    fn split(&mut self, at: Place, by: Place) -> (Place, Place) {
        if at == NOWHERE {
            return (NOWHERE, NOWHERE);
        }
        if self.is_before(at, by) {
            let (left, right) = self.split(self.nodes[at as usize].right, by);
            self.nodes[at as usize].right = left;
            self.update_reach(at);
            (at, right)
        } else {
            let (left, right) = self.split(self.nodes[at as usize].left, by);
            self.nodes[at as usize].left = right;
            self.update_reach(at);
            (left, at)
        }
    }

    /// Takes the node of an interval that is there out from below `at`; returns the new top.
    fn remove(&mut self, at: Place, start: &Bytes, end: &End) -> Place {
        let Some(node) = self.nodes.get(at as usize) else { return NOWHERE };
        let (left, right) = (node.left, node.right);
        match (start, end).cmp(&(&node.start, &node.end)) {
            Ordering::Equal => return self.merge(left, right),
            Ordering::Less => self.nodes[at as usize].left = self.remove(left, start, end),
            Ordering::Greater => self.nodes[at as usize].right = self.remove(right, start, end),
        }
        self.update_reach(at);
        at
    }

    /// Joins two trees, all of the first before all of the second.
    fn merge(&mut self, left: Place, right: Place) -> Place {
        if left == NOWHERE || right == NOWHERE {
            return left.min(right);
        }
        if self.nodes[left as usize].priority > self.nodes[right as usize].priority {
            self.nodes[left as usize].right = self.merge(self.nodes[left as usize].right, right);
            self.update_reach(left);
            left
        } else {
            self.nodes[right as usize].left = self.merge(left, self.nodes[right as usize].left);
            self.update_reach(right);
            right
        }
    }

    fn is_before(&self, one: Place, other: Place) -> bool {
        let (one, other) = (&self.nodes[one as usize], &self.nodes[other as usize]);
        (&one.start, &one.end) < (&other.start, &other.end)
    }

    fn update_reach(&mut self, at: Place) {
        let node = &self.nodes[at as usize];
        let below = [node.left, node.right].into_iter().filter_map(|place| self.nodes.get(place as usize));
        let reach = below.map(|node| &node.reach).chain([&node.end]).max().cloned();
        if let Some(reach) = reach {
            self.nodes[at as usize].reach = reach;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Add(Bytes, End),
        /// Takes out the member at this place of the naive list, if any.
        Remove(usize),
        Ask(Bytes),
    }

    fn key() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(prop_oneof![Just(0), Just(b'a'), Just(b'b'), Just(255)], 0..4).prop_map(Bytes::from)
    }

    fn end() -> impl Strategy<Value = End> {
        prop_oneof![4 => key().prop_map(End::Before), 1 => Just(End::Unbounded)]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (key(), end()).prop_map(|(start, end)| Step::Add(start, end)),
            2 => any::<usize>().prop_map(Step::Remove),
            3 => key().prop_map(Step::Ask),
        ]
    }

    fn found(tree: &IntervalTree<usize>, key: &[u8]) -> Vec<usize> {
        let mut found = Vec::new();
        tree.visit(key, &mut |members| found.extend_from_slice(members.as_slice()));
        found.sort_unstable();
        found
    }

    proptest! {
        #[test]
        fn it_finds_what_a_list_finds(seed: u64, steps in proptest::collection::vec(step(), 1..200)) {
            let mut tree = IntervalTree::new(seed);
            let mut list: Vec<(Bytes, End, usize)> = Vec::new();
            for (name, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Add(start, end) => {
                        tree.members_mut(&start, &end).add(name);
                        list.push((start, end, name));
                    }
                    Step::Remove(place) if !list.is_empty() => {
                        let (start, end, name) = list.swap_remove(place % list.len());
                        let members = tree.members_mut(&start, &end);
                        let place = members.as_slice().iter().position(|member| *member == name);
                        members.remove(place.unwrap());
                        tree.prune(&start, &end);
                    }
                    Step::Remove(_) => {}
                    Step::Ask(key) => {
                        let mut expected: Vec<usize> = list
                            .iter()
                            .filter(|(start, end, _)| *start <= key && end.is_beyond(&key))
                            .map(|(_, _, name)| *name)
                            .collect();
                        expected.sort_unstable();
                        prop_assert_eq!(found(&tree, &key), expected);
                    }
                }
                let different: std::collections::BTreeSet<_> = list.iter().map(|(start, end, _)| (start, end)).collect();
                prop_assert_eq!(tree.len(), different.len());
            }
        }
    }

    #[test]
    fn it_stays_shallow_when_intervals_come_in_order() {
        fn depth(tree: &IntervalTree<u32>, place: Place) -> u32 {
            let Some(node) = tree.nodes.get(place as usize) else { return 0 };
            1 + depth(tree, node.left).max(depth(tree, node.right))
        }
        let mut tree = IntervalTree::new(7);
        for n in 0..10_000_u32 {
            let start = Bytes::copy_from_slice(&n.to_be_bytes());
            let end = Bytes::copy_from_slice(&(n + 1).to_be_bytes());
            tree.members_mut(&start, &End::Before(end)).add(n);
        }
        assert!(depth(&tree, tree.root) < 60, "{}", depth(&tree, tree.root));
        let mut visited = Vec::new();
        tree.visit(&5_000_u32.to_be_bytes(), &mut |members| visited.extend_from_slice(members.as_slice()));
        assert_eq!(visited, [5_000]);
    }
}
