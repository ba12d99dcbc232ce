mod examples;
mod links;
mod readme;
mod scaling;
