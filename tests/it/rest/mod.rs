mod contract;
mod publish;
mod realtime;
mod reload;
