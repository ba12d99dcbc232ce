mod by_hand;
mod feeds;
mod keys;
mod oracle;
mod parallel;
mod refresh_beside_rewrites;
mod relations;
