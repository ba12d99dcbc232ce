mod clients;
mod conformance;
mod gateway;
mod http;
mod safety;
