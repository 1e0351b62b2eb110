//! Merges what a run has pending into a scan of the view below it.

use std::cmp::Ordering;
use std::ops::ControlFlow;

/// Visits the rows of `base` and of `pending` in ascending key order. A pending row hides the base's row of the same
/// key; a pending `None` hides it without taking its place.
pub(crate) fn merge_scan<K: Ord, V, E>(
    pending: impl Iterator<Item = (K, Option<V>)>,
    base: impl FnOnce(&mut dyn FnMut(K, V) -> ControlFlow<()>) -> Result<(), E>,
    visit: &mut dyn FnMut(K, V) -> ControlFlow<()>,
) -> Result<(), E> {
    let mut pending = pending.peekable();
    let mut stopped = false;
    base(&mut |key, value| {
        while let Some((pending_key, pending_value)) = pending.next_if(|(pending_key, _)| *pending_key <= key) {
            let order = pending_key.cmp(&key);
            if let Some(pending_value) = pending_value
                && visit(pending_key, pending_value).is_break()
            {
                stopped = true;
                return ControlFlow::Break(());
            }
            if order == Ordering::Equal {
                return ControlFlow::Continue(());
            }
        }
        let flow = visit(key, value);
        stopped = flow.is_break();
        flow
    })?;
    if stopped {
        return Ok(());
    }
    for (key, value) in pending {
        if let Some(value) = value
            && visit(key, value).is_break()
        {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn merging_is_overlaying(
            base: BTreeMap<u8, u16>,
            pending: BTreeMap<u8, Option<u16>>,
            limit in 1usize..40,
        ) {
            let mut expected = base.clone();
            for (key, value) in &pending {
                match value {
                    Some(value) => expected.insert(*key, *value),
                    None => expected.remove(key),
                };
            }
            let expected: Vec<(u8, u16)> = expected.into_iter().take(limit).collect();

            let mut seen = Vec::new();
            let scan = |visit: &mut dyn FnMut(u8, u16) -> ControlFlow<()>| -> Result<(), ()> {
                for (key, value) in &base {
                    if visit(*key, *value).is_break() {
                        break;
                    }
                }
                Ok(())
            };
            merge_scan(pending.into_iter(), scan, &mut |key, value| {
                seen.push((key, value));
                if seen.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            }).unwrap();
            prop_assert_eq!(seen, expected);
        }
    }
}
