//! Laws of the table and the mailbox, against a model of servers and of what lies between.

mod model;
mod table;
