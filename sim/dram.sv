// The memory behind the engine's port, inside the simulated HDL so that no Python runs in the cycle loop.
//
// A read request is accepted when the channel is free and then occupies it for words * cycles_per_word
// cycles (the bandwidth). Word k of a request accepted in cycle t is delivered in cycle
// t + 1 + latency + k * cycles_per_word. Reads and writes have a channel each, as on AXI. A written word is
// in memory when it is accepted, and then occupies its channel for cycles_per_word cycles.
//
// All ports see one memory, and each has its own bandwidth. Only the first one writes.
//
// Contents are loaded from and saved to binary files of 64-bit words (see bench.sv).
module dram #(
    parameter int WORDS = 1 << 20,
    parameter int PORTS = 1
) (
    input logic clk,
    input logic rst,
    input logic [9:0] latency,
    input logic [6:0] cycles_per_word,

    input  logic [PORTS-1:0]       request_valid,
    output logic [PORTS-1:0]       request_ready,
    input  logic [PORTS-1:0][31:0] request_address,
    input  logic [PORTS-1:0][23:0] request_words,
    output logic [PORTS-1:0]       word_valid,
    input  logic [PORTS-1:0]       word_ready,
    output logic [PORTS-1:0][63:0] word_data,

    input  logic        write_valid,
    output logic        write_ready,
    input  logic [31:0] write_address,
    input  logic [63:0] write_data,
    input  logic [7:0]  write_strobe,

    output logic        fault  // an address beyond the memory, or a word that nobody took
);
    localparam int ADDRESS = $clog2(WORDS);
    logic [63:0] contents [0:WORDS-1];
    logic [PORTS-1:0] read_fault;
    logic write_fault;
    assign fault = |read_fault || write_fault;

    for (genvar p = 0; p < PORTS; p++) begin : port
        // Reads: a server that emits one word address every cycles_per_word cycles ...
        logic [31:0] next_address;
        logic [23:0] words_left;  // words still to emit
        logic [6:0]  pause;       // cycles until the next word, and after the last until the channel is free
        logic        emit;
        logic [31:0] emit_address;
        // ... and a delay line of `latency` cycles, as a ring that is read at `now` and written at now + latency.
        logic        line_valid   [0:1023];
        logic [31:0] line_address [0:1023];
        logic [9:0]  now;

        assign request_ready[p] = words_left == 0 && pause == 0;
        always_comb begin
            emit = 0;
            emit_address = next_address;
            if (request_ready[p] && request_valid[p]) begin
                emit = 1;
                emit_address = request_address[p];
            end else if (words_left != 0 && pause == 0) emit = 1;
        end

        wire        arrives = latency == 0 ? emit : line_valid[now];
        wire [31:0] arrives_address = latency == 0 ? emit_address : line_address[now];

        always_ff @(posedge clk) begin
            word_valid[p] <= 0;
            now <= now + 1;
            line_valid[now] <= 0;
            if (emit && latency != 0) begin
                line_valid[now + latency] <= 1;
                line_address[now + latency] <= emit_address;
            end
            if (emit) begin
                next_address <= emit_address + 1;
                words_left <= (request_ready[p] ? request_words[p] : words_left) - 1;
                pause <= cycles_per_word - 1;
            end else if (pause != 0) pause <= pause - 1;
            if (arrives) begin
                word_valid[p] <= 1;
                word_data[p] <= contents[arrives_address[ADDRESS-1:0]];
                if (arrives_address >= WORDS) read_fault[p] <= 1;
            end
            if (word_valid[p] && !word_ready[p]) read_fault[p] <= 1;
            if (rst) begin
                words_left <= 0;
                pause <= 0;
                now <= 0;
                read_fault[p] <= 0;
                for (int i = 0; i < 1024; i++) line_valid[i] <= 0;
            end
        end
    end

    // Writes.
    logic [6:0] write_pause;
    assign write_ready = write_pause == 0;
    always_ff @(posedge clk) begin
        if (write_valid && write_ready) begin
            for (int i = 0; i < 8; i++)
                if (write_strobe[i]) contents[write_address[ADDRESS-1:0]][8*i +: 8] <= write_data[8*i +: 8];
            if (write_address >= WORDS) write_fault <= 1;
            write_pause <= cycles_per_word - 1;
        end else if (write_pause != 0) write_pause <= write_pause - 1;
        if (rst) begin
            write_pause <= 0;
            write_fault <= 0;
        end
    end
endmodule
