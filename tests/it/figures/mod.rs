mod by_hand;
mod feeds;
mod keys;
mod oracle;
mod parallel;
mod relations;
