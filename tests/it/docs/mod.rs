mod examples;
mod links;
mod readme;
