//! Links between members that carry nothing, in one or both directions. Clients reach every member all the time.

use anyhow::Result;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::Kind;
use crate::chaos::field::Field;

/// Directed links that are cut.
#[derive(Debug)]
pub(super) struct Cut {
    /// One of the sides.
    pub(super) side: Vec<usize>,
    links: Vec<(usize, usize)>,
}

impl Cut {
    pub(super) fn draw(kind: Kind, field: &Field, rng: &mut StdRng) -> Cut {
        let mut members: Vec<usize> = (0..field.size()).collect();
        members.shuffle(rng);
        // The leader is on the smaller side more often than not: there it must notice that it leads nobody.
        if let Some(leader) = field.leader().filter(|_| rng.random_ratio(2, 3)) {
            members.retain(|at| *at != leader);
            members.insert(0, leader);
        }
        let small = rng.random_range(1..=(field.size() - 1) / 2);
        let (one, other) = members.split_at(small);
        // Of a bridge the last member is on both sides.
        let other = if kind == Kind::PartitionBridge { &other[..other.len() - 1] } else { other };
        let mut links = Vec::new();
        let outwards = rng.random_ratio(1, 2);
        for from in one {
            for to in other {
                match kind {
                    Kind::PartitionOneWay if outwards => links.push((*from, *to)),
                    Kind::PartitionOneWay => links.push((*to, *from)),
                    _ => links.extend([(*from, *to), (*to, *from)]),
                }
            }
        }
        Cut { side: one.to_vec(), links }
    }

    pub(super) fn text(&self, field: &Field) -> String {
        let links: Vec<String> =
            self.links.iter().map(|(from, to)| format!("{}→{}", field.name(*from), field.name(*to))).collect();
        format!("cut {}", links.join(" "))
    }

    pub(super) async fn begin(&self, field: &mut Field) -> Result<()> {
        field.cut(&self.links).await
    }

    pub(super) async fn heal(&self, field: &mut Field) -> Result<()> {
        field.join(&self.links).await
    }
}
