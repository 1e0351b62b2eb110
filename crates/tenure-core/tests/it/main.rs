//! The tests of the state machine, in one binary: encodings, golden scripts, and laws checked against a naive model.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod codec;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod halts;
#[cfg(test)]
mod language;
#[cfg(test)]
mod lock_story;
#[cfg(test)]
mod locks;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_lock;
#[cfg(test)]
mod mutant;
#[cfg(test)]
mod scripts;
#[cfg(test)]
mod story;
#[cfg(test)]
mod strategies;
#[cfg(test)]
mod tables;
#[cfg(test)]
mod validate;
