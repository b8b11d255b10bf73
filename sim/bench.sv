// The engine and its memory, with a clock of their own. Python raises `run` once per job and waits for
// `finished`; everything in between happens here. Files lie in the directory +jobs=DIR: job N is loaded from
// image_N.bin (big-endian 64-bit words) and its results are saved to result_N.bin (little-endian).
`timescale 1ns / 1ns
module bench #(
    parameter int WORDS = 1 << 20
);
    logic clk = 0;
    logic rst = 1;
    always #5 clk = ~clk;

    // Set by Python. Only these are visible to it, so that the simulator may optimize the rest.
    logic        run /*verilator public_flat_rw*/ = 0;
    logic [31:0] job /*verilator public_flat_rw*/ = 0;
    logic [31:0] image_words /*verilator public_flat_rw*/ = 0;
    logic [31:0] program_address /*verilator public_flat_rw*/ = 0;
    logic [31:0] result_address /*verilator public_flat_rw*/ = 0;
    logic [31:0] result_words /*verilator public_flat_rw*/ = 0;
    logic [9:0]  latency /*verilator public_flat_rw*/ = 0;
    logic [6:0]  cycles_per_word /*verilator public_flat_rw*/ = 1;
    logic [47:0] cycle_limit /*verilator public_flat_rw*/ = 0;
    // Read by Python.
    logic        finished /*verilator public_flat_rw*/ = 0;
    logic        hung /*verilator public_flat_rw*/ = 0;
    logic        memory_fault /*verilator public_flat_rw*/;
    logic [47:0] cycles /*verilator public_flat_rw*/;
    logic [3:0]  error /*verilator public_flat_rw*/;

    logic start = 0;
    wire  busy;
    wire  request_valid, request_ready, word_valid, word_ready, write_valid, write_ready;
    wire [55:0] request;
    wire [63:0] word;
    wire [95:0] write;

    codesign_engine engine (
        .clk(clk),
        .rst(rst),
        .start(start),
        .\program (program_address),
        .busy(busy),
        .error(error),
        .cycles(cycles),
        .read__request__valid(request_valid),
        .read__request__ready(request_ready),
        .read__request__payload(request),
        .read__word__valid(word_valid),
        .read__word__ready(word_ready),
        .read__word__payload(word),
        .write__word__valid(write_valid),
        .write__word__ready(write_ready),
        .write__word__payload(write)
    );

    dram #(.WORDS(WORDS)) memory (
        .clk(clk),
        .rst(rst),
        .latency(latency),
        .cycles_per_word(cycles_per_word),
        .request_valid(request_valid),
        .request_ready(request_ready),
        .request_address(request[31:0]),
        .request_words(request[55:32]),
        .word_valid(word_valid),
        .word_ready(word_ready),
        .word_data(word),
        .write_valid(write_valid),
        .write_ready(write_ready),
        .write_address(write[31:0]),
        .write_data(write[95:32]),
        .fault(memory_fault)
    );

    string directory;
    integer file;
    integer got;

    always @(posedge run) begin
        finished = 0;
        hung = 0;
        void'($value$plusargs("jobs=%s", directory));
        file = $fopen($sformatf("%s/image_%0d.bin", directory, job), "rb");
        if (file == 0) $fatal(1, "cannot open the image of job %0d", job);
        got = $fread(memory.contents, file, 0, image_words);
        if (got != image_words * 8) $fatal(1, "the image of job %0d is short: %0d bytes", job, got);
        $fclose(file);

        rst = 1;
        repeat (2) @(negedge clk);
        rst = 0;
        start = 1;
        @(negedge clk);
        start = 0;
        wait (!busy || cycles >= cycle_limit);
        hung = busy;

        file = $fopen($sformatf("%s/result_%0d.bin", directory, job), "wb");
        for (int i = 0; i < result_words; i++) $fwrite(file, "%u", memory.contents[result_address + i]);
        $fclose(file);
        finished = 1;
    end
endmodule
